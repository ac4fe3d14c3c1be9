"""Writes the files of a block: Arrow IPC streams of few, large record batches, with their checksums."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from qa_fast.buffers import list_array
from qa_fast.raw import ANSWERS_TYPE
from qa_fast.schema import EVALUATION_COLUMNS, LABEL_COLUMNS, Features, Int32s, Ragged
from qa_fast.shards.format import (
    CHECKSUM,
    CONTEXTS,
    DATA,
    DESCRIPTION,
    EXAMPLES,
    FILE_FACTS,
    LABELS,
    SPLITS,
    TRAIN,
    file_checksum,
    file_name,
    kind_of,
)
from qa_fast.store import write_json

if TYPE_CHECKING:
    from qa_fast.encode import EncodedTexts
    from qa_fast.features.examples import Examples


class BlockWriter:
    """Writes the files of one block into a folder; they are complete after `close`.

    Args:
        folder: An existing local folder.
        split: The split; "train" has only features.
        fingerprint: The fingerprint of the build.
        number: The number of the block in its split.
    """

    def __init__(self, folder: Path, split: str, fingerprint: str, number: int) -> None:
        self.folder, self.split = folder, split
        self._fingerprint, self._number = fingerprint, number
        self._streams: dict[str, tuple[pa.OSFile, pa.ipc.RecordBatchStreamWriter]] = {}
        self._rows: dict[str, int] = {}
        self._contexts = 0

    def add_features(self, batch: pa.RecordBatch) -> None:
        """Append features that `feature_batch` returned."""
        self._write(DATA, batch)

    def add_labels(self, further: Ragged | None) -> None:
        """Append the further labels (see `schema.Features`) of the features that are appended next."""
        if further is None:
            return
        first = self._rows.get(file_name(DATA, self._fingerprint, self._number), 0)
        rows = np.repeat(np.arange(first, first + len(further)), further.lengths // 2)
        columns = [pa.array(rows), *(pa.array(np.ascontiguousarray(further.values[side::2])) for side in (0, 1))]
        self._write(LABELS, pa.RecordBatch.from_arrays(columns, names=list(LABEL_COLUMNS)))

    def add_examples(self, examples: Examples, contexts: EncodedTexts, leading_chars: Int32s, counts: Int32s) -> None:
        """Append the examples and contexts that evaluation needs; do nothing for train.

        Args:
            examples: E examples over D contexts.
            contexts: The encoded contexts [D].
            leading_chars: int32[D], white space removed from the start of each context before it was encoded.
            counts: int32[E], features of each example.
        """
        if self.split == TRAIN:
            return
        shift = np.repeat(leading_chars, np.diff(contexts.offsets))
        self._write(
            CONTEXTS,
            pa.RecordBatch.from_pydict(
                {
                    "context": examples.contexts.cast(pa.string()),
                    "token_char_start": list_array(Ragged(contexts.char_start + shift, contexts.offsets), pa.int32()),
                    "token_char_end": list_array(Ragged(contexts.char_end + shift, contexts.offsets), pa.int32()),
                }
            ),
        )
        self._write(
            EXAMPLES,
            pa.RecordBatch.from_pydict(
                {
                    "id": examples.ids,
                    "question": examples.questions,
                    "context_index": pa.array(examples.context_index + np.int32(self._contexts)),
                    "answers": examples.answers.cast(ANSWERS_TYPE),
                    "feature_count": pa.array(counts),
                }
            ),
        )
        self._contexts += len(contexts)

    def _write(self, kind: str, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        name = file_name(kind, self._fingerprint, self._number)
        if name not in self._streams:
            sink = pa.OSFile(os.fsencode(self.folder / name), "wb")
            self._streams[name] = (sink, pa.ipc.new_stream(sink, batch.schema))
        self._streams[name][1].write_batch(batch)
        self._rows[name] = self._rows.get(name, 0) + batch.num_rows

    def close(self) -> list[dict[str, Any]]:
        """Finish the files.

        Returns:
            `FILE_FACTS` of each file.
        """
        files = []
        for name, (sink, stream) in sorted(self._streams.items()):
            stream.close()
            sink.close()
            path = self.folder / name  # whose bytes the system still has in memory
            facts = (name, self._number, self._rows[name], path.stat().st_size, file_checksum(path))
            files.append(dict(zip(FILE_FACTS, facts, strict=True)))
        return files

    def abort(self) -> None:
        """Close the files; what was written stays."""
        for sink, _ in self._streams.values():
            sink.close()


def write_for_datasets(out: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    """Write the files beside the shards with which `datasets` opens the folder.

    Args:
        out: The folder.
        splits: Split -> facts of its files, from `BlockWriter.close`.
    """
    for split, files in splits.items():
        data = [file for file in files if kind_of(file["file"]) == DATA]
        state: dict[str, Any] = {
            "_data_files": [{"filename": file["file"]} for file in data],
            "_fingerprint": data[0][CHECKSUM][:16] if data else "0" * 16,
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        # Without "features", so that every version of `datasets` takes the types from the Arrow schema.
        info = {"citation": "", "description": DESCRIPTION, "homepage": "", "license": ""}
        write_json(out / split / "dataset_info.json", info)
        write_json(out / split / "state.json", state)
    write_json(out / SPLITS, {"splits": list(splits)})


def feature_batch(features: Features, ids: pa.Array, split: str) -> pa.RecordBatch:
    """Return features as the columns of a data file.

    Args:
        features: F features.
        ids: string [E], ids of the examples that `features.example_index` refers to.
        split: The split; every split except train has the columns that evaluation needs.
    """
    columns: dict[str, pa.Array] = {"input_ids": list_array(features.input_ids, pa.int32())}
    if features.token_type_ids is not None:
        columns["token_type_ids"] = list_array(features.token_type_ids, pa.int8())
    columns["start_positions"] = pa.array(features.start_positions)
    columns["end_positions"] = pa.array(features.end_positions)
    columns["example_id"] = ids.take(pa.array(features.example_index))
    columns["window_index"] = pa.array(features.window_index)
    if split != TRAIN:
        columns |= {name: pa.array(getattr(features, name)) for name in EVALUATION_COLUMNS}
    return pa.RecordBatch.from_pydict(columns)
