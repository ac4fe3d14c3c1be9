"""A model for the server: an engine with a token cache, which stops computing when no client waits."""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.questions import prepare
from qa_fast.answer.results import Result
from qa_fast.answer.settings import max_positions_of, read_settings
from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.errors import without_secrets
from qa_fast.infer.decode import LogitBatch
from qa_fast.infer.spans import read_parts
from qa_fast.schema import Features
from qa_fast.serve.documents import CachingEncoder
from qa_fast.serve.jobs import AbandonedError, Pair
from qa_fast.serve.limits import Limits
from qa_fast.serve.reading import Reading
from qa_fast.sources import resolve_model

if TYPE_CHECKING:
    from qa_fast.infer.engine import Engine

# Requests after which memory is given back, which takes some milliseconds in one thread.
_TRIM_EVERY = 200
# Several scripts, so that the encoder checks its fast path with more than plain letters.
_WARM_TEXT = "The mill's log-book, begun in 1874, is kept at the café (see p. 3): naïve, größer, маяк, 港口、灯塔。 "


class ServedModel:
    """Answers requests for a `Batcher`, in its threads.

    Args:
        name: Name of the model, as clients see it.
        engine: Turns features into logits.
        encoder: The model's tokenizer.
        max_positions: Longest input of the model in tokens.
        limits: Limits on windows, portions and the cache.
        options: The model's own options of answering, for those that a request leaves out.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        encoder: TextEncoder,
        max_positions: int,
        limits: Limits,
        options: AnswerOptions | None = None,
    ) -> None:
        self.name = name
        self._options = options or AnswerOptions()
        self.max_positions = max_positions
        self._limits = limits
        self._engine = engine
        self._answered = itertools.count(1)
        # Most requests have one of few combinations of options.
        self.resolve = lru_cache(self._resolve)
        encoder.way.save_memory()
        self._encoder = CachingEncoder.around(encoder, limits.cache_bytes)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        limits: Limits,
        precision: str = "auto",
        engine: str = "auto",
        say: Callable[[str], None] | None = None,
    ) -> ServedModel:
        """Load a model.

        Args:
            model: A model folder, a Hub id or "minilm".
            limits: See the class.
            precision: See `infer.open_engine`.
            engine: Name of the engine, or "auto".
            say: See `infer.open_engine`.

        Raises:
            UserError: The model or its tokenizer cannot be used, or the engine cannot run it.
        """
        folder = resolve_model(model)
        options = read_settings(folder)
        encoder = load_encoder(folder)
        from qa_fast.infer import open_engine  # the engine may import keras

        opened = open_engine(folder, engine, precision, serving=True, say=say)
        return cls(shown_name(model, folder), opened, encoder, max_positions_of(folder), limits, options)

    @property
    def engine_name(self) -> str:
        """Name of the engine, such as "keras"."""
        return self._engine.name

    @property
    def precision(self) -> str:
        """Precision of the engine's matrix products, such as "float32"."""
        return self._engine.precision

    @property
    def at_once(self) -> int:
        """Number of calls of `read` that gain from running at the same time."""
        return self._engine.at_once

    @property
    def cache_state(self) -> tuple[int, int, int]:
        """Hits, misses and bytes of the token cache."""
        cache = self._encoder.cache
        return cache.hits, cache.misses, cache.bytes

    def _resolve(self, options: AnswerOptions) -> AnswerOptions:
        """Return the options with a value for each: the model's own in place of None; see `AnswerOptions.resolve`."""
        return options.over(self._options).resolve(self.max_positions, self._encoder.template.special_tokens)

    def prepare(self, pairs: Sequence[Pair], options: AnswerOptions) -> Reading:
        """Prepare a request with options that `resolve` returned; see `questions.prepare`. Threads may share this."""
        prepared = prepare(pairs, options, self._encoder, self._limits.windows)
        return Reading(prepared, self._limits.turn_tokens)

    def read(self, jobs: Sequence[Reading], abandoned: Callable[[], bool] = lambda: False) -> None:
        """Compute the next portion of each job; see `jobs.Model.read`.

        Raises:
            AbandonedError: `abandoned` returned true at the start or between two batches of windows.
        """

        def watched(chunks: Sequence[Features]) -> Iterator[LogitBatch]:
            batches = self._engine.predict(chunks)
            try:
                for batch in batches:
                    if abandoned():
                        raise AbandonedError
                    yield batch
            finally:  # at once, so that the engine does not compute the other batches
                if isinstance(batches, Generator):
                    batches.close()

        if abandoned():
            raise AbandonedError
        read_parts(watched, [part for job in jobs if (part := job.portion) is not None])
        for job in jobs:
            job.advance()

    def results(self, job: Reading) -> list[Result]:
        """Return the answers of a job that is fully computed."""
        results = job.results()
        if next(self._answered) % _TRIM_EVERY == 0:
            _trim()
        return results

    def warm_up(self) -> None:
        """Answer a question, so that the first requests do not wait for the engine to compile or allocate."""
        self._engine.warm_up()
        job = self.prepare([("Where is the log-book?", _WARM_TEXT * 40)], self.resolve(AnswerOptions(top_k=5)))
        while job.next_tokens:
            self.read([job])
        self.results(job)


def _trim() -> None:
    """Give memory that glibc keeps between blocks in use back to the system; do nothing with other C libraries."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def shown_name(model: str, folder: Path) -> str:
    """Return a model's name for clients: a Hub id as it is, and only the last part of a path."""
    return folder.resolve().name if Path(model).exists() else without_secrets(model)
