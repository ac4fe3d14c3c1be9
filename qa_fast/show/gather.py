"""Gathers everything that one command shows as a record that the terminal or the page draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from qa_fast.shards import TRAIN
from qa_fast.shards.summary import drop_hint, index_counts
from qa_fast.show.lookup import examples_by_id, first_examples, listed
from qa_fast.show.records import Overview, RejectedExample, RepairedExample, SplitStatistics
from qa_fast.show.source import ShowSource
from qa_fast.show.statistics import split_statistics
from qa_fast.show.wording import split_counts

Progress = Callable[[str, int, int | None], None]


def gather(
    source: ShowSource,
    ids: Sequence[str] = (),
    limit: int = 3,
    with_statistics: bool = False,
    with_rejected: bool = False,
    progress: Progress | None = None,
    with_repaired: bool = False,
) -> Overview:
    """Read what a command shows.

    Args:
        source: The source or shards.
        ids: Show these examples; if empty, show the splits and the first examples of each.
        limit: Number of examples of each split, and of rejected or repaired examples.
        with_statistics: Also measure all texts of each split.
        with_rejected: Show the rejected examples. Others are shown only if `ids` names them.
        progress: See `progress.Reporter`; totals are not known.
        with_repaired: Show the examples whose first answer was repaired; others as for `with_rejected`.

    Raises:
        UserError: No split has one of the ids, or the data cannot be read.
    """
    overview = Overview(source.name, _facts(source))
    if ids:
        overview = replace(overview, examples=tuple(examples_by_id(source, ids)))
    with_lists = with_rejected or with_repaired
    if not ids or with_statistics or with_lists:
        statistics, rejects, repairs = _measure(source, with_statistics, with_lists, progress)
        counts: dict[str, dict[str, Any]] = {}
        if source.shards is not None:
            splits = source.shards.manifest["splits"]
            counts = {split: index_counts(splits[split]) for split in source.splits}
        counts |= {each.split: split_counts(each) for each in statistics}
        overview = replace(overview, counts=counts, statistics=tuple(statistics) if with_statistics else ())
    if with_rejected:
        rules = Counter(reject.rule for reject in rejects)
        overview = replace(overview, rejected=tuple(rejects[:limit]), rejected_rules=dict(rules.most_common()))
    if with_repaired:
        causes = Counter(repair.cause for repair in repairs)
        overview = replace(overview, repaired=tuple(repairs[:limit]), repaired_causes=dict(causes.most_common()))
    if not with_lists and not ids and limit:
        overview = replace(overview, examples=tuple(first_examples(source, limit)))
    notes = source.notes
    if not source.config.drop_impossible:
        for each in overview.statistics:
            if each.split == TRAIN:
                notes += tuple(drop_hint(each.windows_without_answer, each.windows or 0))
    return replace(overview, notes=notes)


def _facts(source: ShowSource) -> dict[str, Any]:
    config = source.config
    facts: dict[str, Any] = {"source": source.origin}
    if source.named is not None:
        facts["form"] = source.named.form
    if source.shards is not None:
        facts["shards"] = f"made by qa-fast {source.shards.manifest.get('qa_fast_version')}"
    facts["tokenizer"] = source.model
    facts["windows"] = f"up to {config.max_length} tokens, overlap {config.doc_stride}"
    facts["labels"] = config.labels
    if config.drop_impossible:
        facts["labels"] += ", without training windows that do not hold the answer"
    return facts


def _measure(
    source: ShowSource, with_statistics: bool, with_lists: bool, progress: Progress | None
) -> tuple[list[SplitStatistics], list[RejectedExample], list[RepairedExample]]:
    """Return statistics, rejected and repaired examples; of shards from their index, otherwise from the examples."""
    if source.shards is None:
        return split_statistics(source, with_statistics or with_lists, progress)
    rejects = list(listed(source, RejectedExample)) if with_statistics or with_lists else []
    repairs = list(listed(source, RepairedExample)) if with_lists else []
    if not with_statistics:
        return [], rejects, repairs
    # Evaluation splits of shards no longer hold the rejected and the original examples; their index counts them.
    index = source.shards.manifest["splits"]
    statistics = []
    for each in split_statistics(source, True, progress)[0]:
        rules = Counter(reject.rule for reject in rejects if reject.split == each.split)
        facts = index[each.split]
        counts = {"repaired": facts["repaired"], "unplaced": facts.get("unplaced", 0)}
        statistics.append(replace(each, rejected=dict(rules.most_common()), **counts))
    return statistics, rejects, repairs
