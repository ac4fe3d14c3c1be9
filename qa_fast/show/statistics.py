"""A split in numbers: lengths, windows, where answers stand, what comes twice.

Tables are checked, encoded and cut by the functions that featurize does it with, side by side; what is kept of a table
are a few arrays of numbers, and of its texts what a set of hashes needs, so memory grows by some 60 bytes an example.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from qa_fast.buffers import one_chunk, text_buffers
from qa_fast.encode import TextEncoder
from qa_fast.features.examples import Examples, IdSet, check_examples
from qa_fast.features.windows import Featurized, featurize_examples
from qa_fast.parallel import in_order, processors
from qa_fast.raw import Reject, SplitTable
from qa_fast.schema import FeatureConfig
from qa_fast.show.distribution import distribution
from qa_fast.show.material import Material
from qa_fast.show.records import Rejected, SplitStatistics

# Name -> unit, in the order in which they are shown.
DISTRIBUTIONS = {
    "questions, characters": "characters",
    "questions, tokens": "tokens",
    "contexts, characters": "characters",
    "contexts, tokens": "tokens",
    "answers, characters": "characters",
    "answers, tokens": "tokens",
    "where answers begin": "share of the context",
    "windows, tokens": "tokens",
}
WINDOWS_OF, ANSWERS_OF = "windows of an example", "answers of an example"


@dataclass(frozen=True)
class _Measured:
    """What is kept of a table: numbers by distribution, texts that are counted once, and counts."""

    rows: int
    rejects: list[Reject]
    repaired: int
    numbers: dict[str, np.ndarray]
    per_context: dict[str, np.ndarray]
    texts: dict[str, pa.Array]
    tallies: dict[str, np.ndarray]
    counts: Counter[str]
    differences: Counter[str] = field(default_factory=Counter)


def split_statistics(
    material: Material, with_tokens: bool, progress: Callable[[str, int], None] | None = None
) -> tuple[list[SplitStatistics], list[Rejected]]:
    """Read, check and measure all the splits.

    Args:
        material: What is looked at; splits whose texts cannot be had are left out.
        with_tokens: Also encode, cut and label, as featurizing does, which finds more rejects and takes longer.
        progress: Told the split and how many rows more were done.

    Returns:
        The statistics of each split and every reject, in order.
    """
    shared = {kind: IdSet() for kind in ("questions", "contexts", "pairs")}
    encoder = material.encoder if with_tokens else None
    statistics, rejects = [], []
    for split in material.splits:
        if not material.has_texts(split):
            continue
        measured = in_order(
            lambda item: _measure(*item, encoder, material.config), _with_repeats(material.tables(split)), processors()
        )
        gathered = _Gathered(split, shared)
        for part in measured:
            gathered.add(part)
            rejects += [Rejected(split, each.id, each.reason) for each in part.rejects]
            if progress:
                progress(split, part.rows)
        statistics.append(gathered.finished())
    return statistics, rejects


def _with_repeats(tables: Iterator[SplitTable]) -> Iterator[tuple[SplitTable, np.ndarray]]:
    seen = IdSet()
    for table in tables:
        yield table, seen.add(one_chunk(table.rows["id"]))


def _measure(
    table: SplitTable, repeated: np.ndarray, encoder: TextEncoder | None, config: FeatureConfig
) -> _Measured:  # fmt: skip
    examples, misplaced, repaired = check_examples(table.rows, repeated)
    rejects, done = [*table.unreadable, *misplaced], None
    if encoder is not None and len(examples):
        done = featurize_examples(examples, encoder, config)
        rejects += done.rejects
        examples = done.encoded.examples
    rows = table.rows.num_rows + len(table.unreadable)
    chars = pc.utf8_length(examples.contexts).to_numpy(zero_copy_only=False)
    answered = examples.span_start >= 0
    start, end = examples.span_start[answered], examples.span_end[answered]
    numbers = {
        "questions, characters": pc.utf8_length(examples.questions).to_numpy(zero_copy_only=False),
        "answers, characters": end - start,
        "where answers begin": start / np.maximum(chars[examples.context_index[answered]], 1),
    }
    tallies = {ANSWERS_OF: pc.list_value_length(examples.answers.field("text")).to_numpy(zero_copy_only=False)}
    counts = Counter(good=len(examples), unanswerable=int((~answered).sum()))
    per_context = {"contexts, characters": chars}
    differences: Counter[str] = Counter()
    if done is not None:
        _measure_windows(done, answered, numbers, per_context, tallies, counts)
        differences.update(done.labels.differences)
    return _Measured(
        rows, rejects, repaired, numbers, per_context, _texts(examples), tallies, counts, differences
    )  # fmt: skip


def _texts(examples: Examples) -> dict[str, pa.Array]:
    """What is counted once: questions, contexts, and pairs by the hash of their context, since those may be long."""
    flat = text_buffers(examples.contexts)
    data = flat.values.data
    hashes = [xxhash.xxh3_128_hexdigest(data[a:b]) for a, b in itertools.pairwise(flat.offsets.tolist())]
    of_rows = pa.array(hashes, pa.string()).take(pa.array(examples.context_index))
    pairs = pc.binary_join_element_wise(of_rows, examples.questions.cast(pa.string()), "")
    return {"questions": examples.questions, "contexts": examples.contexts, "pairs": pairs}


def _measure_windows(
    done: Featurized,
    answered: np.ndarray,
    numbers: dict[str, np.ndarray],
    per_context: dict[str, np.ndarray],
    tallies: dict[str, np.ndarray],
    counts: Counter[str],
) -> None:
    windows, labels, encoded = done.windows, done.labels, done.encoded
    holds = labels.start_positions != windows.cls_position
    of = windows.example_index
    answer_tokens = np.zeros(len(answered), np.int32)
    np.maximum.at(answer_tokens, of[holds], (labels.end_positions - labels.start_positions + 1)[holds])
    found = np.zeros(len(answered), bool)
    found[of[holds]] = True
    numbers["questions, tokens"] = np.diff(encoded.questions.offsets)[encoded.question_index]
    numbers["answers, tokens"] = answer_tokens[found & (answer_tokens > 0)]
    numbers["windows, tokens"] = windows.lengths
    per_context["contexts, tokens"] = np.diff(encoded.contexts.offsets)
    tallies[WINDOWS_OF] = np.bincount(of, minlength=len(answered))
    counts["windows"] += len(windows)
    counts["windows_without_answer"] += int((~holds & answered[of]).sum())
    counts["cut_answers"] += int((answered & ~found).sum())
    counts["tokens"] += int(windows.lengths.sum(dtype=np.int64))


class _Gathered:
    """The tables of a split, added up."""

    def __init__(self, split: str, shared: dict[str, IdSet]) -> None:
        self.split, self._shared = split, shared
        self._own = {kind: IdSet() for kind in shared}
        self._numbers: dict[str, list[np.ndarray]] = {}
        self._tallies: dict[str, Counter[int]] = {}
        self._rules: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._distinct = dict.fromkeys(shared, 0)
        self._in_earlier = dict.fromkeys(shared, 0)
        self._differences: Counter[str] = Counter()
        self._has_tokens = False

    def add(self, part: _Measured) -> None:
        self._counts.update(part.counts)
        self._counts.update(rows=part.rows, repaired=part.repaired)
        self._rules.update(Rejected(self.split, each.id, each.reason).rule for each in part.rejects)
        self._differences.update(part.differences)
        is_new: dict[str, np.ndarray] = {}
        for kind, texts in part.texts.items():
            is_new[kind] = ~self._own[kind].add(texts)
            self._distinct[kind] += int(is_new[kind].sum())
            in_earlier = self._shared[kind].add(texts.filter(pa.array(is_new[kind])))
            self._in_earlier[kind] += int(in_earlier.sum())
        for name, values in part.numbers.items():
            self._numbers.setdefault(name, []).append(values)
        for name, values in part.per_context.items():  # a context that several tables have counts once
            self._numbers.setdefault(name, []).append(values[is_new["contexts"]])
        for name, values in part.tallies.items():
            numbers, times = np.unique(values, return_counts=True)
            self._tallies.setdefault(name, Counter()).update(dict(zip(numbers.tolist(), times.tolist(), strict=True)))
        self._has_tokens |= "contexts, tokens" in part.per_context

    def finished(self) -> SplitStatistics:
        counts = self._counts
        return SplitStatistics(
            split=self.split,
            rows=counts["rows"],
            good=counts["good"],
            rejected=dict(self._rules.most_common()),
            repaired=counts["repaired"],
            unanswerable=counts["unanswerable"],
            distinct=self._distinct,
            shared=self._in_earlier,
            distributions={
                name: distribution(name, unit, np.concatenate(self._numbers[name]))
                for name, unit in DISTRIBUTIONS.items()
                if name in self._numbers
            },
            tallies={name: dict(sorted(tally.items())) for name, tally in self._tallies.items()},
            windows=counts["windows"] if self._has_tokens else None,
            windows_without_answer=counts["windows_without_answer"],
            cut_answers=counts["cut_answers"],
            tokens=counts["tokens"],
            differences={cause: count for cause, count in self._differences.items() if count},
        )
