"""Writing one split's files: Arrow IPC streams of few, large record batches, with their checksums."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from qa_fast.buffers import list_array
from qa_fast.raw import ANSWERS_TYPE
from qa_fast.schema import Features, Int32s, Ragged
from qa_fast.shards.format import CHECKSUM, TRAIN, write_json

if TYPE_CHECKING:
    from qa_fast.encode import EncodedTexts
    from qa_fast.examples import Examples

# A data file is closed when it holds this much; small enough to copy and checksum in pieces.
SHARD_BYTES = 1 << 29


class _HashingFile:
    """A file that is written from its start to its end, with its checksum as it goes: a second reading costs more.

    XXH3 tells a damaged file as surely as SHA-256 does, in a seventh of the time, which here is a tenth of the whole.
    """

    def __init__(self, path: Path) -> None:
        self.checksum, self.size = xxhash.xxh3_128(), 0
        self._file = path.open("wb", buffering=0)

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes | pa.Buffer) -> int:
        """Write all of it."""
        view = memoryview(data).cast("B")
        self.checksum.update(view)
        while len(view):  # a single call may write less
            view = view[self._file.write(view) :]
        size = memoryview(data).nbytes
        self.size += size
        return size

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class SplitWriter:
    """Writes one split's files into a folder; they are complete after `close`."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self._streams: dict[str, tuple[_HashingFile, pa.ipc.RecordBatchStreamWriter]] = {}
        self._data: list[tuple[Path, int]] = []  # files begun, rows in each
        self._contexts = 0
        folder.mkdir(parents=True)

    def add_features(self, batch: pa.RecordBatch) -> None:
        """Append features, as `feature_batch` gives them."""
        if not self._data or self._data[-1][0].stat().st_size >= SHARD_BYTES:
            self._data.append((self.folder / f"data-{len(self._data):05d}.arrow", 0))
        path, rows = self._data[-1]
        self._data[-1] = (path, rows + batch.num_rows)
        self._write(path.name, batch)

    def add_examples(self, examples: Examples, contexts: EncodedTexts, leading_chars: Int32s, counts: Int32s) -> None:
        """Append what evaluation needs; does nothing for train.

        Args:
            examples: E examples over D contexts.
            contexts: The encoded contexts [D].
            leading_chars: int32[D], white space taken off each context before encoding.
            counts: int32[E], features of each example.
        """
        if self.split == TRAIN:
            return
        shift = np.repeat(leading_chars, np.diff(contexts.offsets))
        self._write(
            "contexts.arrow",
            pa.RecordBatch.from_pydict(
                {
                    "context": examples.contexts.cast(pa.string()),
                    "token_char_start": list_array(Ragged(contexts.char_start + shift, contexts.offsets), pa.int32()),
                    "token_char_end": list_array(Ragged(contexts.char_end + shift, contexts.offsets), pa.int32()),
                }
            ),
        )
        self._write(
            "examples.arrow",
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

    def _write(self, name: str, batch: pa.RecordBatch) -> None:
        if name not in self._streams:
            sink = _HashingFile(self.folder / name)
            self._streams[name] = (sink, pa.ipc.new_stream(pa.PythonFile(sink, "w"), batch.schema))
        self._streams[name][1].write_batch(batch)

    def close(self) -> list[dict[str, Any]]:
        """Finish the files, give them their final names, and write what `datasets` reads.

        Returns:
            For each file: its name within the split, rows, bytes and checksum.
        """
        for sink, stream in self._streams.values():
            stream.close()
            sink.close()
        files: list[dict[str, Any]] = []
        for number, (path, rows) in enumerate(self._data):
            final = path.with_name(f"data-{number:05d}-of-{len(self._data):05d}.arrow")
            path.rename(final)
            files.append(self._described(final, path.name, rows))
        for name in ("examples.arrow", "contexts.arrow"):
            if (self.folder / name).exists():
                files.append(self._described(self.folder / name, name, None))
        data_files = [{"filename": file["file"]} for file in files if file["rows"] is not None]
        fingerprint = files[0][CHECKSUM][:16] if files else "0" * 16
        state: dict[str, Any] = {
            "_data_files": data_files,
            "_fingerprint": fingerprint,
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": self.split,
        }
        # No "features" on purpose: `datasets` then reads the types off the Arrow schema, in every version of it.
        info = {"citation": "", "description": "Made by qa-fast featurize.", "homepage": "", "license": ""}
        write_json(self.folder / "dataset_info.json", info)
        write_json(self.folder / "state.json", state)
        return files

    def _described(self, path: Path, written_as: str, rows: int | None) -> dict[str, Any]:
        sink, _ = self._streams[written_as]
        return {"file": path.name, "rows": rows, "bytes": sink.size, CHECKSUM: sink.checksum.hexdigest()}

    def abort(self) -> None:
        """Let go of the open files; what was written stays where it is."""
        for sink, _ in self._streams.values():
            sink.close()


def feature_batch(features: Features, ids: pa.Array, split: str) -> pa.RecordBatch:
    """Features as the columns of a data file.

    Args:
        features: F features.
        ids: string [E], ids of the examples that `features.example_index` counts.
        split: Every split but train has the columns that evaluation needs.
    """
    columns: dict[str, pa.Array] = {"input_ids": list_array(features.input_ids, pa.int32())}
    if features.token_type_ids is not None:
        columns["token_type_ids"] = list_array(features.token_type_ids, pa.int8())
    columns["start_positions"] = pa.array(features.start_positions)
    columns["end_positions"] = pa.array(features.end_positions)
    columns["example_id"] = ids.take(pa.array(features.example_index))
    columns["window_index"] = pa.array(features.window_index)
    if split != TRAIN:
        columns["context_start"] = pa.array(features.context_start)
        columns["context_end"] = pa.array(features.context_end)
        columns["document_token_start"] = pa.array(features.document_token_start)
    return pa.RecordBatch.from_pydict(columns)
