"""Opening a folder of shards: files are read through a memory map without a copy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast import store
from qa_fast.buffers import ragged_from
from qa_fast.errors import UserError, shown
from qa_fast.progress import on_stderr
from qa_fast.schema import EVALUATION_COLUMNS, Features, Int32s, Ragged
from qa_fast.shards.format import (
    CONTEXTS,
    DATA,
    EXAMPLES,
    FORMAT_VERSION,
    INDEX,
    TRAIN,
    damaged_file,
    is_index,
    kind_of,
)
from qa_fast.shards.remote import fetch_split, local_folder

if TYPE_CHECKING:
    from qa_fast.feeds import Batches, Columns


@dataclass(frozen=True)
class Split:
    """One split's features, memory-mapped: `split[0]` is a dict, and the rest is for training loops.

    Attributes:
        name: "train", "validation", ...
        chunks: Features of each record batch, in order; views without a copy. `example_index` counts the split's
            examples, from 0.
        ids: string [F], each feature's example id.
        examples: Table of `schema.EXAMPLE_COLUMNS`, or None for train.
        contexts: Table of `schema.CONTEXT_COLUMNS`, or None for train.
        pad_id: Token id behind a row's end.
        cls_id: Token id of CLS, where it is known.
        max_length: Longest feature in tokens that these were made with.
        tokenizer_hash: Of the tokenizer that made them, where it is known.
    """

    name: str
    chunks: list[Features]
    ids: pa.ChunkedArray
    examples: pa.Table | None = None
    contexts: pa.Table | None = None
    pad_id: int = 0
    cls_id: int | None = None
    max_length: int = 512
    tokenizer_hash: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> Int32s:
        """int32[F], tokens of each feature."""
        parts = [chunk.input_ids.lengths for chunk in self.chunks]
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)

    @property
    def typed(self) -> bool:
        """Whether the features have token types."""
        return any(chunk.token_type_ids is not None for chunk in self.chunks)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One feature as a dict of `schema.FEATURE_COLUMNS`, and of `EVALUATION_COLUMNS` in every split but train."""
        if isinstance(row, slice):
            raise UserError("a row must be a number; received a slice: take batches(), or to_numpy() for all rows")
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.name} has {len(self):,} features; received row {row}")
        row %= len(self)
        example_id, chunk, at = self.ids[row].as_py(), self.chunks[0], row
        for chunk in self.chunks:
            if at < len(chunk):
                break
            at -= len(chunk)
        found: dict[str, Any] = {"input_ids": chunk.input_ids[at].tolist()}
        if chunk.token_type_ids is not None:
            found["token_type_ids"] = chunk.token_type_ids[at].tolist()
        found["start_positions"], found["end_positions"] = int(chunk.start_positions[at]), int(chunk.end_positions[at])
        found["example_id"], found["window_index"] = example_id, int(chunk.window_index[at])
        if self.examples is not None:
            found |= {name: int(getattr(chunk, name)[at]) for name in EVALUATION_COLUMNS}
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self):,} features of at most {self.max_length} tokens)"

    def to_numpy(self, max_length: int | None = None, *, say: Callable[[str], None] = on_stderr) -> Columns:
        """The tutorial's dict of arrays: all features, padded to one length.

        Args:
            max_length: L; None takes what the shards were made with.
            say: Told how much memory the arrays take, before it is taken.

        Returns:
            input_ids, attention_mask and, where the model has them, token_type_ids int32[F, L]; start_positions and
            end_positions int32[F].

        Raises:
            UserError: A feature is longer, or the arrays do not fit into memory.
        """
        from qa_fast.feeds import padded_arrays

        return padded_arrays(self, max_length or self.max_length, say)

    def batches(
        self,
        batch_size: int = 16,
        *,
        shuffle: bool | None = None,
        batching: str = "grouped",
        max_length: int | None = None,
        seed: int = 0,
        epoch: int = 0,
        drop_remainder: bool = False,
    ) -> Batches:
        """Batches as dicts of numpy arrays, for JAX or a loop of one's own; each `for` over them is one pass.

        Pass by pass these are the batches of `qa-fast train` with the same seed.

        Args:
            batch_size: B.
            shuffle: Draw a new order in each pass, from (lengths, seed, epoch) alone; None shuffles train only.
            batching: "grouped" puts features of like lengths together, as wide as they need; "fixed" pads all to
                `max_length`, the tutorial's way.
            max_length: None takes what the shards were made with.
            seed: Of the orders.
            epoch: Of the first pass.
            drop_remainder: Leave out a last batch of fewer rows.

        Returns:
            An iterable with a length; its dicts are as those of `to_numpy`, of int32[B, L] and int32[B].

        Raises:
            UserError: An option is not usable, or a feature is longer than `max_length`.
        """
        from qa_fast.feeds import Order, batches  # late, as in the methods here: kernels are loaded with it

        shuffled = self.name == TRAIN if shuffle is None else shuffle
        order = Order(batch_size, shuffled, batching, max_length or self.max_length, seed, drop_remainder)
        return batches(self, order, epoch)

    def to_tf_dataset(self, batch_size: int = 16, **options: Any) -> Any:
        """A `tf.data.Dataset` of dicts, for `Model.fit` and loops of one's own.

        Deterministic, cut ahead of its use, of known cardinality, and usable with `tf.distribute`; each pass is one
        epoch with an order of its own.

        Args:
            batch_size: B.
            options: As those of `batches`.

        Raises:
            UserError: As for `batches`, or TensorFlow is not installed.
        """
        from qa_fast.feeds.tf_data import tf_dataset

        return tf_dataset(self.batches(batch_size, **options))

    def to_keras(self, batch_size: int = 16, **options: Any) -> Any:
        """A `keras.utils.PyDataset` for `Model.fit` where there is no TensorFlow, as on JAX.

        On TensorFlow Keras wants all batches of one width: only `batching="fixed"` works there; take `to_tf_dataset`.

        Pass `shuffle=False` to `fit`: the order is drawn here, and Keras would put the batches of a pass in another.

        Args:
            batch_size: B.
            options: As those of `batches`.

        Raises:
            UserError: As for `batches`, or batches of several widths are asked for on TensorFlow.
        """
        from qa_fast.feeds.keras_set import keras_batches

        return keras_batches(self.batches(batch_size, **options))

    def to_torch(self, batch_size: int = 16, **options: Any) -> Any:
        """A torch `IterableDataset` of batches of int64 tensors, which transformers' models take as `model(**batch)`.

        Read it as it is or through `DataLoader(dataset, batch_size=None, num_workers=N)`. Each process of a distributed
        job reads all of it.

        Args:
            batch_size: B.
            options: As those of `batches`.

        Raises:
            UserError: As for `batches`, or torch is not installed.
        """
        try:
            from qa_fast.feeds.torch_set import TorchBatches
        except ImportError:
            raise UserError("to_torch needs torch, which is not installed: pip install torch") from None
        return TorchBatches(self.batches(batch_size, **options))


@dataclass(frozen=True)
class Shards:
    """A folder of shards.

    Attributes:
        folder: Where it is, or is copied to split by split.
        manifest: What qa_fast.json says.
        remote: Where it lies, if that is elsewhere.
    """

    folder: Path
    manifest: dict[str, Any]
    _opened: dict[str, Split] = field(default_factory=dict, repr=False)
    remote: Path | None = None

    @property
    def names(self) -> list[str]:
        """The splits."""
        return list(self.manifest["splits"])

    def __getitem__(self, name: str) -> Split:
        """As `split`."""
        return self.split(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __fspath__(self) -> str:
        return str(self.folder)  # so that whatever takes a folder of shards takes this

    def __repr__(self) -> str:
        splits = self.manifest["splits"].items()
        listed = "".join(f"\n  {name}: {about['features']:,} features" for name, about in splits)
        return f"Shards({str(self.folder)!r}){listed}"

    def _repr_html_(self) -> str:
        from qa_fast.show.notebook import shards_html

        return shards_html(str(self.folder), self.manifest)

    def split(self, name: str) -> Split:
        """Open a split.

        Raises:
            UserError: There is none of that name, or a file of it is missing or not as long as it was made.
        """
        if name not in self.manifest["splits"]:
            raise UserError(f"the split must be one of {', '.join(self.names)}; received {name!r} for {self.folder}")
        if name not in self._opened:
            if self.remote is not None:
                fetch_split(self.remote, self.folder, name, self.manifest["splits"][name]["shards"])
            self._opened[name] = _open_split(self.folder / name, name, self.manifest)
        return self._opened[name]

    def check_contents(self, name: str) -> None:
        """Compare a split's files with the index's checksums, which reads them all: some GB a second.

        Raises:
            UserError: One is not what featurize wrote.
        """
        self.split(name)  # one that lies elsewhere is here from then on
        damaged = damaged_file(self.folder, {"splits": {name: self.manifest["splits"][name]}}, contents=True)
        if damaged:
            raise UserError(
                f"{self.folder} must be as featurize left it; {damaged} is not, by its checksum: featurize again"
            )


def open_shards(path: str | os.PathLike[str]) -> Shards:
    """Open a folder that `qa-fast featurize` made.

    Args:
        path: The folder, here or a URL.

    Returns:
        Its splits by name; `shards["train"][0]` is a feature.

    Raises:
        UserError: Not such a folder, an unfinished one, or one of another format version.
    """
    place = store.place(path)
    folder = place if store.is_local(place) else local_folder(place)
    index = folder / INDEX
    try:
        there = index.is_file()
    except OSError as error:  # a name that no file can have
        raise UserError(f"SHARDS must be a folder that 'qa-fast featurize' made; {error.strerror}: {folder}") from None
    if not there:
        state = "is not there" if not folder.exists() else f"has no {INDEX} (not made by qa-fast, or not finished)"
        raise UserError(f"SHARDS must be a folder that 'qa-fast featurize' made; {folder} {state}: run featurize first")
    try:
        manifest = json.loads(index.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{index} must be readable; {error.strerror}") from None
    except (ValueError, RecursionError):
        manifest = None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise UserError(
            f"{folder} must have shard format {FORMAT_VERSION}; received format {shown(version)}, of qa-fast "
            f"{str(manifest.get('qa_fast_version'))[:20]}: featurize again with this version"
        )
    if version != FORMAT_VERSION or not is_index(manifest):
        raise UserError(f"{index} must be the index of a shard folder; it is damaged: featurize again")
    return Shards(folder, manifest, remote=None if store.is_local(place) else place)


def _open_split(folder: Path, name: str, manifest: dict[str, Any]) -> Split:
    files = manifest["splits"][name]["shards"]
    damaged = damaged_file(folder.parent, {"splits": {name: {"shards": files}}})
    if damaged:
        raise UserError(
            f"{folder.parent} must be as featurize left it; {damaged} is missing or cut short: featurize again"
        )
    try:
        found = _assembled(name, files, {file["file"]: _table(folder / file["file"]) for file in files})
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder} must be as featurize left it; it is damaged ({reason}): featurize again") from None
    model, config = manifest.get("model", {}), manifest.get("config", {})
    return replace(
        found,
        pad_id=model.get("pad_token_id") or 0,
        cls_id=model.get("cls_token_id"),
        max_length=config.get("max_length", found.max_length),
        tokenizer_hash=model.get("tokenizer_hash"),
    )


def _assembled(name: str, files: list[dict[str, Any]], tables: dict[str, pa.Table]) -> Split:
    def of_kind(kind: str) -> list[dict[str, Any]]:
        return [file for file in files if kind_of(file["file"]) == kind]

    data = [tables[file["file"]] for file in of_kind(DATA)]
    contexts = {file["block"]: tables[file["file"]] for file in of_kind(CONTEXTS)}
    examples = {file["block"]: tables[file["file"]] for file in of_kind(EXAMPLES)}
    both = _joined(examples, contexts) if examples else (None, None)
    features = pa.concat_tables(data) if data else None
    if features is None or features.num_rows == 0:
        return Split(name, [], pa.chunked_array([], pa.string()), *both)
    chunks, example, last = [], -1, None
    for batch in features.to_batches():
        runs = pc.run_end_encode(batch.column("example_id"))
        run_ends, values = runs.run_ends.to_numpy(), runs.values
        # An example's windows may go on in the next batch.
        first = example + (values[0].as_py() != last)
        example_index = np.repeat(np.arange(first, first + len(run_ends), dtype=np.int32), np.diff(run_ends, prepend=0))
        example, last = first + len(run_ends) - 1, values[-1].as_py()
        chunks.append(_features(batch, example_index))
    return Split(name, chunks, features["example_id"], *both)


def _joined(examples: dict[int, pa.Table], contexts: dict[int, pa.Table]) -> tuple[pa.Table, pa.Table]:
    """The examples and contexts of all blocks; a block's examples count its own contexts."""
    before, parts = 0, []
    for block, table in examples.items():
        shifted = pc.add(table["context_index"], pa.scalar(before, pa.int32()))
        parts.append(table.set_column(table.schema.get_field_index("context_index"), "context_index", shifted))
        before += contexts[block].num_rows
    return pa.concat_tables(parts), pa.concat_tables(contexts.values())


def _table(path: Path) -> pa.Table:
    with pa.memory_map(os.fsencode(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        table = stream.read_all()
    table.validate(full=True)  # reads offsets and texts, not the ids: what kernels index with must be in bounds
    return table


def _features(batch: pa.RecordBatch, example_index: Int32s) -> Features:
    def column(name: str) -> Int32s:
        if name not in batch.schema.names:
            return np.zeros(batch.num_rows, np.int32)
        return batch.column(name).to_numpy(zero_copy_only=True)

    ids = ragged_from(batch.column("input_ids"))
    types = None
    if "token_type_ids" in batch.schema.names:
        types = Ragged(ragged_from(batch.column("token_type_ids")).values, ids.offsets)
    return Features(
        input_ids=ids,
        token_type_ids=types,
        start_positions=column("start_positions"),
        end_positions=column("end_positions"),
        example_index=example_index,
        window_index=column("window_index"),
        context_start=column("context_start"),
        context_end=column("context_end"),
        document_token_start=column("document_token_start"),
    )
