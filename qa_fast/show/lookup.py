"""Examples by id, or the first few, out of tables that are read once; and what to say of an id that is nowhere."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import one_chunk
from qa_fast.errors import UserError
from qa_fast.features.examples import IdSet
from qa_fast.html.markup import shown
from qa_fast.shards import REJECTED
from qa_fast.show.example import Stored, decoded_example, first_ids, shown_example, stored_features
from qa_fast.show.material import Material
from qa_fast.show.records import Rejected, Shown

# Ids that resemble an unknown one are looked for among so many that begin alike.
_CANDIDATES = 400


def first_examples(material: Material, count: int) -> list[Shown]:
    """The first `count` examples of each split."""
    found: list[Shown] = []
    for split in material.splits:
        stored = None
        if material.shards is not None:
            opened = material.shards.split(split)
            ids = first_ids(opened, count)
            stored = stored_features(opened, set(ids))
            if not material.has_texts(split):
                found += [decoded_example(split, row_id, stored[row_id], material.encoder) for row_id in ids]
                continue
        left, known = count, IdSet()
        for table in material.tables(split):
            rows = np.arange(min(left, table.rows.num_rows))
            repeated = known.add(one_chunk(table.rows["id"]))
            found += _examples(material, split, table.rows, rows, repeated, stored)
            left -= len(rows)
            if left <= 0:
                break
    return found


def examples_by_id(material: Material, ids: Sequence[str]) -> list[Shown]:
    """The examples of some ids, in the order of the ids; splits are read until all are found.

    Raises:
        UserError: An id that no split has.
    """
    found: list[Shown] = []
    seen: list[tuple[str, pa.Array]] = []
    for split in material.splits:
        opened = material.shards.split(split) if material.shards is not None else None
        stored = stored_features(opened, set(ids)) if opened is not None else None
        if opened is not None:
            seen += [(split, chunk) for chunk in opened.ids.chunks]
            if stored and not material.has_texts(split):
                found += [decoded_example(split, row_id, each, material.encoder) for row_id, each in stored.items()]
                continue
            if not stored:
                continue
        repeats = IdSet()
        for table in material.tables(split):
            column = one_chunk(table.rows["id"])
            seen.append((split, column))
            repeated = repeats.add(column)
            rows = np.flatnonzero(pc.is_in(column, pa.array(ids, pa.string())).to_numpy(zero_copy_only=False))
            found += _examples(material, split, table.rows, rows, repeated, stored)
            found += [_bare(split, each.id, each.reason) for each in table.unreadable if each.id in ids]
            if {example.id for example in found} >= (set(ids) if stored is None else set(stored)):
                break
        if {example.id for example in found} >= set(ids):
            break
    known = {example.id for example in found}
    if material.shards is not None:  # of evaluation splits they hold what was good
        gone = [each for each in rejects_of(material) if each.id in ids and each.id not in known]
        found += [_bare(each.split, each.id, each.reason) for each in gone]
        known |= {each.id for each in gone}
    for wanted in ids:
        if wanted not in known:
            raise _unknown(material, wanted, seen)
    order = {row_id: place for place, row_id in reversed(list(enumerate(ids)))}
    return sorted(found, key=lambda example: order[example.id])


def rejects_of(material: Material) -> Iterator[Rejected]:
    """What shards say of the examples that were left out, in the splits looked at."""
    assert material.shards is not None
    path = material.shards.folder / REJECTED
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                said = json.loads(line)
                reject = Rejected(said["split"], said["id"], said["reason"])
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{path} must hold a JSON object with split, id and reason a line; line {number} is none: "
                    "featurize again"
                ) from None
            if reject.split in material.splits:
                yield reject


def _bare(split: str, row_id: str, reason: str) -> Shown:
    return Shown(split, row_id, "", None, (), rejected=reason)


def _examples(
    material: Material,
    split: str,
    table: pa.Table,
    rows: np.ndarray,
    repeated: np.ndarray,
    stored: dict[str, list[Stored]] | None,
) -> list[Shown]:
    return [
        shown_example(
            split,
            row,
            bool(repeated[at]),
            material.encoder,
            material.config,
            None if stored is None else stored.get(row["id"], []),
        )
        for at, row in zip(rows.tolist(), table.take(pa.array(rows)).to_pylist(), strict=True)
    ]


def _unknown(material: Material, wanted: str, seen: list[tuple[str, pa.Array]]) -> UserError:
    splits = ", ".join(material.splits)
    near = _nearest(wanted, seen)
    if near:
        advice = "nearest are " + ", ".join(f"{shown(row_id)} ({split})" for split, row_id in near)
    else:
        first = next(((split, ids[0].as_py()) for split, ids in seen if len(ids)), None)
        advice = f"ids there look like {shown(first[1])} ({first[0]})" if first else "there are no ids at all"
    return UserError(f"--id must be an id of {material.name} ({splits}); received {shown(wanted)}, {advice}: name one")


def _nearest(wanted: str, seen: list[tuple[str, pa.Array]]) -> list[tuple[str, str]]:
    """Ids that resemble one: those that begin as it does are compared, since all would take seconds."""
    for size in range(min(len(wanted), 32), 0, -1):
        candidates: dict[str, str] = {}
        for split, ids in seen:
            alike = ids.filter(pc.starts_with(ids, wanted[:size])).slice(0, _CANDIDATES).to_pylist()
            candidates.update(dict.fromkeys(alike, split))
            if len(candidates) >= _CANDIDATES:
                break
        near = difflib.get_close_matches(wanted, candidates, n=3, cutoff=0.5)
        if near:
            return [(candidates[row_id], row_id) for row_id in near]
    return []
