"""Finds examples by id, or the first few, in tables that are read once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import one_chunk
from qa_fast.errors import UserError
from qa_fast.features.examples import IdSet, check_examples
from qa_fast.html.markup import visible
from qa_fast.shards import REJECTED, REPAIRED, TRAIN
from qa_fast.show.example import StoredFeature, computed_example, decoded_example, stored_features
from qa_fast.show.records import RejectedExample, RepairedExample, ShownExample
from qa_fast.show.source import ShowSource

Listed = TypeVar("Listed", RejectedExample, RepairedExample)


def first_examples(source: ShowSource, count: int) -> list[ShownExample]:
    """Return the first `count` examples of each split."""
    examples: list[ShownExample] = []
    for split in source.splits:
        stored = None
        if source.shards is not None:
            opened = source.shards.split(split)
            ids = opened.ids.unique().slice(0, count).to_pylist()
            stored = stored_features(opened, set(ids))
            if not source.has_texts(split):
                examples += [decoded_example(split, row_id, stored[row_id], source.encoder) for row_id in ids]
                continue
        missing, known_ids = count, IdSet()
        for table in source.tables(split):
            rows = np.arange(min(missing, table.rows.num_rows))
            repeated = known_ids.add(one_chunk(table.rows["id"]))
            examples += _examples(source, split, table.rows, rows, repeated, stored)
            missing -= len(rows)
            if missing <= 0:
                break
    return examples


def examples_by_id(source: ShowSource, ids: Sequence[str]) -> list[ShownExample]:
    """Return the examples with some ids, in the order of the ids. Splits are read until all are found.

    Raises:
        UserError: No split has one of the ids.
    """
    examples: list[ShownExample] = []
    ids_read: list[tuple[str, pa.Array]] = []
    for split in source.splits:
        stored = None
        if source.shards is not None:
            opened = source.shards.split(split)
            ids_read += [(split, chunk) for chunk in opened.ids.chunks]
            stored = stored_features(opened, set(ids))
            if not stored:
                continue
            if not source.has_texts(split):
                examples += [decoded_example(split, *item, source.encoder) for item in stored.items()]
                continue
        known_ids = IdSet()
        for table in source.tables(split):
            column = one_chunk(table.rows["id"])
            ids_read.append((split, column))
            repeated = known_ids.add(column)
            rows = np.flatnonzero(pc.is_in(column, pa.array(ids, pa.string())).to_numpy(zero_copy_only=False))
            examples += _examples(source, split, table.rows, rows, repeated, stored)
            examples += [_rejected(split, each.id, each.reason) for each in table.unreadable if each.id in ids]
            if {example.id for example in examples} >= (set(ids) if stored is None else set(stored)):
                break
        if {example.id for example in examples} >= set(ids):
            break
    known = {example.id for example in examples}
    if source.shards is not None:  # their evaluation splits hold only the examples that passed the checks
        rejects = [each for each in listed(source, RejectedExample) if each.id in ids and each.id not in known]
        examples += [_rejected(each.split, each.id, each.reason) for each in rejects]
        known |= {each.id for each in rejects}
    for wanted in ids:
        if wanted not in known:
            raise _unknown_id(source, wanted, ids_read)
    order = {row_id: place for place, row_id in reversed(list(enumerate(ids)))}
    return sorted(examples, key=lambda example: order[example.id])


def listed(source: ShowSource, record: type[Listed]) -> Iterator[Listed]:
    """Yield the rejected or the repaired examples that shards list, of the splits to show.

    Args:
        source: The shards.
        record: The record of such an example.

    Raises:
        UserError: A line of the list is damaged.
    """
    assert source.shards is not None
    path = source.shards.folder / (REJECTED if record is RejectedExample else REPAIRED)
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if not all(isinstance(value, str) for value in entry.values()):
                    raise TypeError
                each = record(**entry)
            except (ValueError, AttributeError, TypeError):
                raise UserError(
                    f"each line of {path} must be a JSON object with the fields of a {record.__name__} as text; line "
                    f"{number} is not: featurize again"
                ) from None
            if each.split in source.splits:
                yield each


def _rejected(split: str, row_id: str, reason: str) -> ShownExample:
    return ShownExample(split, row_id, "", None, (), rejected=reason)


def _examples(
    source: ShowSource,
    split: str,
    table: pa.Table,
    rows: np.ndarray,
    repeated: np.ndarray,
    stored: dict[str, list[StoredFeature]] | None,
) -> list[ShownExample]:
    checked = check_examples(table, repeated, scored=split != TRAIN)
    return [
        computed_example(
            split,
            row,
            checked,
            at,
            source.encoder,
            source.config,
            None if stored is None else stored.get(row["id"], []),
        )
        for at, row in zip(rows.tolist(), table.take(pa.array(rows)).to_pylist(), strict=True)
    ]


def _unknown_id(source: ShowSource, wanted: str, ids_read: list[tuple[str, pa.Array]]) -> UserError:
    first = next((f"{visible(ids[0].as_py())} ({split})" for split, ids in ids_read if len(ids)), None)
    advice = f"choose an id such as {first}" if first else "there are no ids at all"
    splits = ", ".join(source.splits)
    return UserError(f"--id must be an id of {source.name} ({splits}); received {visible(wanted)}: {advice}")
