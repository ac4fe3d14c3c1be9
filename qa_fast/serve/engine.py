"""A model made ready to serve: fixed shapes, a token cache, and a stop when nobody waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from qa_fast.answer import Answerer, AnswerOptions, Predict, max_positions_of
from qa_fast.decode import LogitBatch
from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.schema import Features
from qa_fast.serve.batcher import AbandonedError, Pair, Result
from qa_fast.serve.documents import RememberingEncoder
from qa_fast.serve.limits import Limits
from qa_fast.sources import resolve_model

# Several scripts, so that the encoder's check of its fast way sees more than plain letters.
_WARM_TEXT = "The mill's log-book, begun in 1874, is kept at the café (see p. 3): naïve, größer, маяк, 港口、灯塔。 "


class Engine:
    """Answers pairs for a `Batcher`, in its thread.

    Args:
        name: The model, as shown to clients.
        predict: Features to logits.
        encoder: The model's tokenizer.
        max_positions: Longest input of the model in tokens.
        limits: Bounds on windows and on the cache.
        warm_up: Compiles what would otherwise be compiled for the first requests.
    """

    def __init__(
        self,
        name: str,
        predict: Predict,
        encoder: TextEncoder,
        max_positions: int,
        limits: Limits,
        warm_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.max_positions = max_positions
        self._limits = limits
        self._predict = predict
        self._encoder = RememberingEncoder.around(encoder, limits.cache_bytes)
        self._warm_up = warm_up

    @classmethod
    def from_pretrained(cls, model: str, limits: Limits, precision: str = "auto") -> Engine:
        """Load a model folder, a Hub id or "minilm".

        Raises:
            UserError: No usable model or tokenizer there.
        """
        folder = resolve_model(model)
        encoder = load_encoder(folder)
        from qa_fast.predict import Predictor  # imports keras
        from qa_fast.serve.shapes import FixedShapes

        shapes = FixedShapes(Predictor.from_pretrained(folder, precision=precision).model)
        return cls(shown_name(model, folder), shapes.predict, encoder, max_positions_of(folder), limits, shapes.warm_up)

    @property
    def cache_state(self) -> tuple[int, int, int]:
        """Hits, misses and bytes of the token cache."""
        cache = self._encoder.cache
        return cache.hits, cache.misses, cache.bytes

    def resolve(self, options: AnswerOptions) -> AnswerOptions:
        """The options with every number set; see `AnswerOptions.resolve`."""
        return options.resolve(self.max_positions, self._encoder.template.special_tokens)

    def answer_pairs(
        self, pairs: Sequence[Pair], options: AnswerOptions, abandoned: Callable[[], bool] = lambda: False
    ) -> list[Result]:
        """See `Answerer.answer_pairs`.

        Raises:
            AbandonedError: `abandoned` became true between two batches of windows.
        """

        def watched(chunks: Sequence[Features]) -> Iterator[LogitBatch]:
            batches: Iterable[LogitBatch] = self._predict(chunks)
            for batch in batches:
                yield batch
                if abandoned():
                    raise AbandonedError

        answerer = Answerer(watched, self._encoder, self.max_positions, max_windows=self._limits.windows)
        return answerer.answer_pairs(pairs, options)

    def warm_up(self) -> None:
        """Do once what the first requests would wait for."""
        self._warm_up()
        self.answer_pairs([("Where is the log-book?", _WARM_TEXT * 40)], AnswerOptions(top_k=5))


def shown_name(model: str, folder: Path) -> str:
    """A model's name for clients: an id as it is, of a path its last part alone."""
    return folder.resolve().name if Path(model).exists() else model
