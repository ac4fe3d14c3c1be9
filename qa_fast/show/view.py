"""Gathers all that one command shows, as the records that a terminal or a page draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from qa_fast.show.lookup import examples_by_id, first_examples, rejects_of
from qa_fast.show.material import Material
from qa_fast.show.records import Rejected, SplitStatistics, View
from qa_fast.show.statistics import split_statistics
from qa_fast.show.wording import indexed_counts, split_counts

Progress = Callable[[str, int], None]


def gather(
    material: Material,
    ids: Sequence[str] = (),
    limit: int = 3,
    with_statistics: bool = False,
    with_rejected: bool = False,
    progress: Progress | None = None,
) -> View:
    """What to show.

    Args:
        material: What is looked at.
        ids: Show these examples; without any, the splits and the first examples of each.
        limit: How many examples of each split, and how many rejects.
        with_statistics: Also lengths, windows and duplicates, of the whole of each split.
        with_rejected: The rejects and why, instead of examples unless those are named.
        progress: Told the split and how many rows more were read.

    Raises:
        UserError: An id that is nowhere, or what was looked at cannot be read.
    """
    view = View(material.name, _facts(material))
    if ids:
        examples = tuple(examples_by_id(material, ids))
        view = replace(view, examples=examples, notes=material.notes)
        if not with_statistics and not with_rejected:
            return view
    statistics, rejects = _counted(material, with_statistics, with_rejected, progress)
    if material.shards is not None:
        splits = material.shards.manifest["splits"]
        counts = {split: indexed_counts(splits[split]) for split in material.splits}
        # A table holds one kind of counts: where some are of the whole source, all that can be are.
        counts.update({each.split: split_counts(each) for each in statistics})
    else:
        counts = {each.split: split_counts(each) for each in statistics}
    view = replace(view, counts=counts, statistics=tuple(statistics) if with_statistics else (), notes=material.notes)
    if with_rejected:
        rules = Counter(each.rule for each in rejects)
        return replace(
            view,
            rejected=tuple(rejects[:limit]),
            rejected_total=len(rejects),
            rejected_rules=dict(rules.most_common()),
        )
    if ids or not limit:
        return view
    examples = tuple(first_examples(material, limit))
    return replace(view, examples=examples, notes=material.notes)


def _facts(material: Material) -> dict[str, Any]:
    config = material.config
    facts: dict[str, Any] = {"from": material.origin}
    if material.shards is not None:
        facts["shards by"] = f"qa-fast {material.shards.manifest.get('qa_fast_version')}"
    facts["tokenizer"] = material.model
    facts["windows"] = f"at most {config.max_length} tokens, overlapping by {config.doc_stride}"
    facts["labels"] = config.labels + (
        ", train windows without their answer left out" if config.drop_impossible else ""
    )
    return facts


def _counted(
    material: Material, with_statistics: bool, with_rejected: bool, progress: Progress | None
) -> tuple[list[SplitStatistics], list[Rejected]]:
    """Statistics and rejects, from the index where that says all, else from the examples."""
    if material.shards is None:
        return split_statistics(material, with_statistics or with_rejected, progress)
    rejects = list(rejects_of(material)) if with_statistics or with_rejected else []
    if not with_statistics:
        return [], rejects
    # What the shards left out is not read again of evaluation splits; they say of all splits what it was.
    index = material.shards.manifest["splits"]
    statistics = []
    for each in split_statistics(material, True, progress)[0]:
        rules = dict(Counter(reject.rule for reject in rejects if reject.split == each.split).most_common())
        rows = each.good + sum(rules.values())
        statistics.append(replace(each, rows=rows, rejected=rules, repaired=index[each.split]["repaired"]))
    return statistics, rejects
