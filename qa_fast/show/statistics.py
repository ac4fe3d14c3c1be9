"""Figures of a split: lengths, windows, places of answers, duplicates.

Tables are checked, encoded and cut by the functions that featurize uses, several at a time. Of each table only arrays
of numbers and hashes of its texts are kept, so memory grows by about 60 bytes an example.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from qa_fast.buffers import list_lengths, one_chunk, text_buffers
from qa_fast.encode import TextEncoder
from qa_fast.features.examples import Examples, IdSet, check_examples
from qa_fast.features.several import labels_of_further
from qa_fast.features.windows import Featurized, featurize_examples
from qa_fast.parallel import in_order, processors
from qa_fast.raw import UNPLACED, SplitTable
from qa_fast.schema import FeatureConfig
from qa_fast.shards import TRAIN
from qa_fast.show.distribution import distribution
from qa_fast.show.records import RejectedExample, RepairedExample, SplitStatistics
from qa_fast.show.source import ShowSource

# Name -> unit, in the order in which they are shown.
DISTRIBUTIONS = {
    "questions, characters": "characters",
    "questions, tokens": "tokens",
    "contexts, characters": "characters",
    "contexts, tokens": "tokens",
    "answers, characters": "characters",
    "answers, tokens": "tokens",
    "start of the answer": "share of the context",
    "windows, tokens": "tokens",
}


@dataclass
class _Measured:
    """Figures of one table, some of which are of distributions by their names."""

    rows: int
    rejects: list[RejectedExample]
    repairs: list[RepairedExample]
    counts: Counter[str]  # by the name of a field of `SplitStatistics`
    numbers: dict[str, np.ndarray]
    per_context: dict[str, np.ndarray]  # those of contexts, one for each distinct context
    texts: dict[str, pa.Array]  # to be counted once, by kind
    tallies: dict[str, np.ndarray]
    differences: Counter[str] = field(default_factory=Counter)


def split_statistics(
    source: ShowSource, with_tokens: bool, progress: Callable[[str, int, int | None], None] | None = None
) -> tuple[list[SplitStatistics], list[RejectedExample], list[RepairedExample]]:
    """Read, check and measure all splits.

    Args:
        source: The source or shards. Splits without texts are left out.
        with_tokens: Also encode, cut and label as featurize does, which takes longer and finds more rejects.
        progress: See `progress.Reporter`; totals are not known.

    Returns:
        The statistics of each split, and all rejected and all repaired examples in order.
    """
    seen = {kind: IdSet() for kind in ("questions", "contexts", "pairs")}
    encoder = source.encoder if with_tokens else None
    statistics, rejects, repairs = [], [], []
    for split in source.splits:
        if not source.has_texts(split):
            continue
        measured = in_order(
            lambda item: _measure(*item, encoder, source.config), _with_repeats(source.tables(split)), processors()
        )
        totals = _Totals(split, seen)
        for part in measured:
            totals.add(part)
            rejects += part.rejects
            repairs += part.repairs
            if progress:
                progress(split, part.rows, None)
        statistics.append(totals.statistics())
    return statistics, rejects, repairs


def _with_repeats(tables: Iterator[SplitTable]) -> Iterator[tuple[SplitTable, np.ndarray]]:
    known_ids = IdSet()
    for table in tables:
        yield table, known_ids.add(one_chunk(table.rows["id"]))


def _measure(
    table: SplitTable, repeated: np.ndarray, encoder: TextEncoder | None, config: FeatureConfig
) -> _Measured:  # fmt: skip
    checked = check_examples(table.rows, repeated, scored=table.split != TRAIN)
    examples, repairs = checked.examples, checked.repairs.values()
    unplaced = sum(repair.cause == UNPLACED for repair in repairs)
    rejects, featurized = [*table.unreadable, *checked.rejects.values()], None
    if encoder is not None and len(examples):
        further = labels_of_further(config, training=table.split == TRAIN)
        featurized = featurize_examples(examples, encoder, config, further=further)
        rejects += featurized.rejects
        examples = featurized.encoded.examples
    chars = pc.utf8_length(examples.contexts).to_numpy(zero_copy_only=False)
    is_answered = examples.span_start >= 0
    answer_counts = list_lengths(examples.answers.field("text"))
    start, end = examples.span_start[is_answered], examples.span_end[is_answered]
    measured = _Measured(
        rows=table.rows.num_rows + len(table.unreadable),
        rejects=[RejectedExample(table.split, each.id, each.reason) for each in rejects],
        repairs=[RepairedExample(table.split, each.id, each.cause, each.reason) for each in repairs],
        counts=Counter(
            good=len(examples),
            repaired=len(repairs) - unplaced,
            unplaced=unplaced,
            unanswerable=int((answer_counts == 0).sum()),
        ),
        numbers={
            "questions, characters": pc.utf8_length(examples.questions).to_numpy(zero_copy_only=False),
            "answers, characters": end - start,
            "start of the answer": start / np.maximum(chars[examples.context_index[is_answered]], 1),
        },
        per_context={"contexts, characters": chars},
        texts=_texts(examples),
        tallies={"answers of an example": answer_counts},
    )
    if featurized is not None:
        _measure_windows(featurized, is_answered, measured)
        text_tokens, unknown_tokens = featurized.encoded.count_tokens(encoder.unknown_id if encoder else None)
        measured.counts.update(text_tokens=text_tokens, unknown_tokens=unknown_tokens)
    return measured


def _texts(examples: Examples) -> dict[str, pa.Array]:
    """Return the texts to count once. Pairs hold the hash of their context, since contexts may be long."""
    flat = text_buffers(examples.contexts)
    data = flat.values.data
    hashes = [xxhash.xxh3_128_hexdigest(data[a:b]) for a, b in itertools.pairwise(flat.offsets.tolist())]
    context_hashes = pa.array(hashes, pa.string()).take(pa.array(examples.context_index))
    pairs = pc.binary_join_element_wise(context_hashes, examples.questions.cast(pa.string()), "")
    return {"questions": examples.questions, "contexts": examples.contexts, "pairs": pairs}


def _measure_windows(featurized: Featurized, is_answered: np.ndarray, measured: _Measured) -> None:
    """Add the figures of tokens, windows and labels."""
    windows, labels, encoded = featurized.windows, featurized.labels, featurized.encoded
    example = windows.example_index
    holds_answer = labels.start_positions != windows.cls_position
    answer_tokens = np.zeros(len(is_answered), np.int32)
    label_tokens = labels.end_positions - labels.start_positions + 1
    np.maximum.at(answer_tokens, example[holds_answer], label_tokens[holds_answer])
    is_held = np.zeros(len(is_answered), bool)
    is_held[example[holds_answer]] = True
    measured.numbers["questions, tokens"] = np.diff(encoded.questions.offsets)[encoded.question_index]
    measured.numbers["answers, tokens"] = answer_tokens[is_held & (answer_tokens > 0)]
    measured.numbers["windows, tokens"] = windows.lengths
    measured.per_context["contexts, tokens"] = np.diff(encoded.contexts.offsets)
    measured.tallies["windows of an example"] = np.bincount(example, minlength=len(is_answered))
    measured.counts.update(
        windows=len(windows),
        windows_without_answer=int((~holds_answer & is_answered[example]).sum()),
        cut_answers=int((is_answered & ~is_held).sum()),
        tokens=int(windows.lengths.sum(dtype=np.int64)),
    )
    measured.differences.update(labels.differences)


class _Totals:
    """The figures of a split's tables, added up."""

    def __init__(self, split: str, seen: dict[str, IdSet]) -> None:
        self._split, self._seen_before = split, seen
        self._seen_here = {kind: IdSet() for kind in seen}
        self._numbers: dict[str, list[np.ndarray]] = {}
        self._tallies: dict[str, Counter[int]] = {}
        self._rules: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._distinct: Counter[str] = Counter(dict.fromkeys(seen, 0))
        self._shared: Counter[str] = Counter(dict.fromkeys(seen, 0))
        self._differences: Counter[str] = Counter()

    def add(self, part: _Measured) -> None:
        self._counts.update(part.counts)
        self._rules.update(reject.rule for reject in part.rejects)
        self._differences.update(part.differences)
        is_new: dict[str, np.ndarray] = {}
        for kind, texts in part.texts.items():
            is_new[kind] = ~self._seen_here[kind].add(texts)
            is_shared = self._seen_before[kind].add(texts.filter(pa.array(is_new[kind])))
            self._distinct[kind] += int(is_new[kind].sum())
            self._shared[kind] += int(is_shared.sum())
        for name, values in part.numbers.items():
            self._numbers.setdefault(name, []).append(values)
        for name, values in part.per_context.items():  # a context in several tables counts once
            self._numbers.setdefault(name, []).append(values[is_new["contexts"]])
        for name, values in part.tallies.items():
            numbers, times = np.unique(values, return_counts=True)
            self._tallies.setdefault(name, Counter()).update(dict(zip(numbers.tolist(), times.tolist(), strict=True)))

    def statistics(self) -> SplitStatistics:
        counts: dict[str, Any] = {"good": 0, "repaired": 0, "unplaced": 0, "unanswerable": 0, **self._counts}
        return SplitStatistics(
            split=self._split,
            rejected=dict(self._rules.most_common()),
            distinct=dict(self._distinct),
            shared=dict(self._shared),
            distributions={
                name: distribution(name, unit, np.concatenate(self._numbers[name]))
                for name, unit in DISTRIBUTIONS.items()
                if name in self._numbers
            },
            tallies={name: dict(sorted(tally.items())) for name, tally in self._tallies.items()},
            differences={cause: count for cause, count in self._differences.items() if count},
            **counts,
        )
