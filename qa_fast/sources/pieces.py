"""Cuts files into pieces that any process can read on its own, and gathers pieces into blocks, one for each shard.

The content of a block depends only on the files, so one process and many, a first run and a continued one, make the
same shards. Cutting reads the footer of a Parquet file and all bytes of a JSON file (about 1 GB/s). A file smaller than
a block is one piece and costs nothing.
"""

from __future__ import annotations

import codecs
import io
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import xxhash

from qa_fast import store
from qa_fast.buffers import one_chunk
from qa_fast.errors import UserError, first_line
from qa_fast.sources.delimited import first_line_of
from qa_fast.sources.foreign import refuse_bytes, refuse_text
from qa_fast.sources.held import HeldTables
from qa_fast.sources.plain import Layers, open_plain, read_range
from qa_fast.sources.rows import TABLE_ROWS

BOM = codecs.BOM_UTF8
# The errors of libraries for files that are damaged or unreachable; the name of a column may not be UTF-8.
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
# Bytes of a source in one shard: enough to make the fixed costs of a shard negligible, few enough for many workers to
# find work and for little to be lost with one shard. 16 MiB of SQuAD's JSON make 45 MB of features.
BLOCK_BYTES = 1 << 24
# Largest piece of Parquet row groups or Arrow batches, in uncompressed bytes and in rows.
_GROUP_BYTES = 1 << 26
_PIECE_ROWS = 4 * TABLE_ROWS
# Bytes that are read to recognise the kind of a file, among them the names of the columns of a table.
START_BYTES = 1 << 16
# Bytes that are read to tell JSON lines from a document. A single line may be longer.
_HEAD_BYTES = 1 << 24
# A piece is held in memory several times, so a document without a place to cut in so many bytes is refused.
MOST_PIECE_BYTES = 1 << 28
# What pandas writes with orient="split". A piece of its rows would not show the names of their columns.
_ROWS_OF_VALUES = re.compile(rb'"data"\s*:\s*\[\s*\[')

PARQUET, ARROW_FILE, ARROW_STREAM = "Parquet", "Arrow file", "Arrow stream"
WHOLE_JSON, JSON_LINES, JSON_DOCUMENT = "JSON", "JSON lines", "JSON document"
TEXT_TABLE = "CSV"


@dataclass(frozen=True)
class Piece:
    """A part of a file that can be read on its own, or of a table in memory.

    Attributes:
        path: Local path or URL; for a table in memory, its name in messages.
        kind: One of the kinds of this module.
        size: Approximate bytes of the source in it.
        begin: First byte, row group or record batch.
        end: One past the last; -1 means the end of the file.
        first: Number of its first row in the file: row, line, or element of the document.
        paragraph: Number of its first member of "paragraphs", if it begins inside of an article.
        opening: Text that completes bytes from the middle of a document at their start.
        closing: Text that completes them at their end.
        id_prefix: Prefix of the ids of rows without ids, before their number.
        held: Its examples, if they are in memory.
        layers: The file's layers, such as ("gzip", "UTF-16"); see `plain`. `begin` and `end` count the bytes inside.
    """

    path: str
    kind: str
    size: int
    begin: int = 0
    end: int = -1
    first: int = 0
    paragraph: int = 0
    opening: bytes = b""
    closing: bytes = b""
    id_prefix: str = "row-"
    held: HeldTables | None = field(default=None, compare=False, repr=False)
    layers: Layers = ()


def hash_of_text(text: str) -> int:
    """Return a 64-bit hash by which the texts of a divided split are told apart."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def hashes_of_texts(context: pa.ChunkedArray) -> np.ndarray:
    """Return uint64[E], the `hash_of_text` of each row of the column `context`; a text that repeats is hashed once."""
    column = one_chunk(context.unify_dictionaries())
    hashes = np.array([hash_of_text(text) for text in column.dictionary.to_pylist()], np.uint64)
    return hashes[column.indices.to_numpy(zero_copy_only=False)]


@dataclass(frozen=True)
class Half:
    """One side of a split that is divided by document, see `documents.divide`.

    Attributes:
        held_out: uint64[n], sorted, as bytes: the `hash_of_text` of each context of the validation split.
        is_held_out: Whether this is the validation split.
    """

    held_out: bytes
    is_held_out: bool

    def of(self, table: pa.Table) -> pa.Table:
        """Return the rows of a table of examples that are on this side."""
        held_out = np.isin(hashes_of_texts(table["context"]), np.frombuffer(self.held_out, np.uint64))
        return table.filter(pa.array(held_out == self.is_held_out))


@dataclass(frozen=True)
class Block:
    """The part of a source that becomes one shard.

    Attributes:
        split: "train", "validation", ...
        number: Its place among the blocks of the split, in the order of the source.
        pieces: Its pieces, in the order of the source.
        limit: Largest number of rows to read; None reads all.
        half: The rows to read, if the split is a part of a divided one.
    """

    split: str
    number: int
    pieces: tuple[Piece, ...]
    limit: int | None = None
    half: Half | None = None

    @property
    def name(self) -> str:
        """A name that is unique within the source."""
        return f"{self.split}-{self.number:05d}"

    @property
    def size(self) -> int:
        """Approximate bytes of the source in it."""
        return sum(piece.size for piece in self.pieces)


def blocks_of(splits: Mapping[str, Sequence[Path]], block_bytes: int | None = None) -> Iterator[Block]:
    """Yield the blocks of all splits in order.

    Args:
        splits: Split -> files, in reading order.
        block_bytes: Bytes of a block; None takes `BLOCK_BYTES`.

    Raises:
        UserError: A file cannot be read, or it has no place to cut and is too large to be read whole.
    """
    block_bytes = block_bytes or BLOCK_BYTES
    for split, paths in splits.items():
        number, size = 0, 0
        pending: list[Piece] = []
        for at, path in enumerate(paths):
            # Rows without ids are numbered, and ids must differ between files.
            for piece in pieces_of(path, f"row-{at}-" if len(paths) > 1 else "row-", block_bytes):
                if pending and size + piece.size > block_bytes:
                    yield Block(split, number, tuple(pending))
                    number, pending, size = number + 1, [], 0
                pending.append(piece)
                size += piece.size
        if pending:
            yield Block(split, number, tuple(pending))


def pieces_of(path: Path, id_prefix: str = "row-", block_bytes: int | None = None) -> Iterator[Piece]:
    """Yield the pieces of one file, whose kind is recognised by its first bytes and not by its name.

    Raises:
        UserError: It cannot be read, or it has no place to cut and is too large to be read whole.
    """
    kind, block_bytes = "JSON", block_bytes or BLOCK_BYTES
    try:
        with store.reached(path, "SOURCE"):
            file, layers = open_plain(path)
            with file:
                head = file.read(START_BYTES)
                size = len(head) + len(file.read(block_bytes + 1)) if layers else store.size_of(path)
            refuse_bytes(head, str(path))
            whole = Piece(str(path), WHOLE_JSON, size, id_prefix=id_prefix, layers=layers)
            if head.startswith(b"PAR1"):
                kind = "Parquet"
                yield from _of_parquet(path, whole, block_bytes)
            elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
                kind = "Arrow"
                is_file = head.startswith(b"ARROW1")
                yield from _of_arrow(path, replace(whole, kind=ARROW_FILE if is_file else ARROW_STREAM), block_bytes)
            elif first_line_of(head)[1]:
                yield replace(whole, kind=TEXT_TABLE)
            else:
                refuse_text(head, str(path))
                if size <= block_bytes:
                    yield replace(whole, end=size if layers else -1)
                elif is_lines(read_range(path, 0, _HEAD_BYTES, layers)):
                    yield from _of_lines(path, whole, block_bytes)
                else:
                    yield from _of_document(path, whole, block_bytes)
    except UNREADABLE as error:
        raise not_whole(path, kind, error) from None


def open_table(path: Path, layers: Layers, mapped: bool = False) -> pa.NativeFile:
    """Open a file for random access by Arrow's readers. What is in a layer is read into memory.

    Args:
        path: A Parquet or Arrow file.
        layers: Its layers.
        mapped: Map a local file without layers into memory.

    Raises:
        UserError: More is in the layers than a piece may hold.
    """
    if not layers:
        return pa.memory_map(os.fsencode(path)) if mapped and store.is_local(path) else store.open_random(path)
    data = read_range(path, 0, MOST_PIECE_BYTES + 1, layers)
    if len(data) > MOST_PIECE_BYTES:
        raise UserError(
            f"a compressed Parquet or Arrow file must have at most {MOST_PIECE_BYTES >> 20} MiB inside, which is read "
            f"into memory; {path} has more: decompress it first"
        )
    return pa.BufferReader(data)


def not_whole(path: Path, kind: str, error: Exception) -> UserError:
    """Return the error for a file that cannot be read.

    Args:
        path: The file.
        kind: The kind it should have: JSON, Parquet or Arrow.
        error: One of `UNREADABLE`.
    """
    if isinstance(error, OSError) and error.filename:
        return UserError(f"{path} must be readable; {error.strerror}")
    return UserError(f"{path} must be a whole {kind} file; {first_line(error)}: fetch or write it again")


def _of_parquet(path: Path, whole: Piece, block_bytes: int) -> Iterator[Piece]:
    """Yield runs of row groups."""
    import pyarrow.parquet as pq

    with open_table(path, whole.layers) as opened, pq.ParquetFile(opened) as file:
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        sizes = [(group.num_rows, group.total_byte_size) for group in groups]
    yield from runs(replace(whole, kind=PARQUET, size=0), sizes, block_bytes)


def _of_arrow(path: Path, whole: Piece, block_bytes: int) -> Iterator[Piece]:
    """Yield runs of record batches; a stream that can only be read from its start is one piece."""
    is_file = whole.kind == ARROW_FILE
    if whole.size <= block_bytes or not (is_file or (store.is_local(path) and not whole.layers)):
        yield whole
        return
    with open_table(path, whole.layers, mapped=True) as opened:  # only the lengths of batches are read
        if is_file:
            reader = pa.ipc.open_file(opened)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(opened))
        sizes = []
        for batch in batches:
            batch.validate()  # its size is only known if its buffers have valid ends
            sizes.append((batch.num_rows, batch.nbytes))
    yield from runs(replace(whole, size=0), sizes, block_bytes)


def runs(piece: Piece, sizes: list[tuple[int, int]], block_bytes: int) -> Iterator[Piece]:
    """Yield runs of groups with a limited number of rows and bytes.

    Args:
        piece: A piece with the attributes that all runs share.
        sizes: Rows and bytes of each group.
        block_bytes: Bytes of a block, to which the limits are proportional.
    """
    most_rows, most = (limit * block_bytes // BLOCK_BYTES for limit in (_PIECE_ROWS, _GROUP_BYTES))
    begin = rows = size = row = 0
    for number, (more_rows, more) in enumerate(sizes):
        if number > begin and (rows + more_rows > most_rows or size + more > most):
            yield replace(piece, begin=begin, end=number, first=row, size=_weight(rows, size))
            begin, row, rows, size = number, row + rows, 0, 0
        rows, size = rows + more_rows, size + more
    yield replace(piece, begin=begin, end=len(sizes), first=row, size=_weight(rows, size))


def _weight(rows: int, size: int) -> int:
    """Return the approximate bytes that rows would have as JSON, in which repeated contexts are written once too."""
    return max(size * BLOCK_BYTES // _GROUP_BYTES, rows * BLOCK_BYTES // _PIECE_ROWS)


def is_lines(head: bytes) -> bool:
    """Tell from the start of a file whether it is JSON lines and not one document.

    A bad first line does not turn JSON lines into one bad document. In a document, a line that is an object can be
    followed only by a comma, a bracket or a brace.
    """
    stripped = map(bytes.strip, io.BytesIO(head.removeprefix(BOM)))
    lines = list(itertools.islice(filter(None, stripped), 3))
    if len(lines) < 2 or lines[0].startswith(b"["):
        return False
    return _is_object(lines[0]) or (_is_object(lines[1]) and not lines[-1].startswith((b",", b"]", b"}")))


def _is_object(line: bytes) -> bool:
    try:
        return line.endswith(b"}") and isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _of_lines(path: Path, whole: Piece, block_bytes: int) -> Iterator[Piece]:
    """Yield runs of whole lines."""
    begin = first = 0
    with open_plain(path)[0] as file:
        while data := file.read(block_bytes):
            end, lines = begin + len(data), data.count(b"\n")
            if not data.endswith(b"\n"):
                rest = file.readline(MOST_PIECE_BYTES)
                if len(rest) == MOST_PIECE_BYTES:
                    raise _too_long(path, end)
                end, lines = end + len(rest), lines + rest.endswith(b"\n")
            yield replace(whole, kind=JSON_LINES, size=end - begin, begin=begin, end=end, first=first)
            begin, first = end, first + lines


def _of_document(path: Path, whole: Piece, block_bytes: int) -> Iterator[Piece]:
    """Yield pieces of one document, cut between its elements or between the paragraphs in them."""
    from qa_fast.kernels import json_cuts

    state = np.zeros(json_cuts.STATE, np.int64)
    out: list[np.ndarray] = [np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(4, np.uint8)]
    piece, size = replace(whole, kind=JSON_DOCUMENT), 0
    with open_plain(path)[0] as file:
        while data := file.read(block_bytes):
            if size == 0 and _ROWS_OF_VALUES.search(data[:START_BYTES]):
                raise UserError(
                    f"a JSON file of more than {BLOCK_BYTES >> 20} MiB must not be a table of pandas with "
                    f"orient='split'; {path} is: write it with orient='records' and lines=True"
                )
            size += len(data)
            cuts = json_cuts.find_cuts(np.frombuffer(data, np.uint8), block_bytes, state, *out)
            for position, element, paragraph, nested in zip(*(part[:cuts].tolist() for part in out), strict=True):
                is_list = state[json_cuts.BASE] == 1
                inside = paragraph >= 0
                closing = (b"]}" if inside else b"") + (b"]" if is_list else b"]}")
                yield replace(piece, size=position - piece.begin, end=position - 1, closing=closing)  # not the comma
                opening = b"[" if is_list else b'{"data":['
                # An empty article shows that the elements are articles, in case the piece itself does not.
                opening += b'{"paragraphs":[' if inside else b'{"paragraphs":[]},' if nested else b""
                ahead = 0 if inside or not nested else 1
                piece = replace(
                    piece, begin=position, first=element - ahead, paragraph=max(paragraph, 0), opening=opening
                )
            if int(state[json_cuts.POSITION]) - piece.begin > MOST_PIECE_BYTES:
                raise _too_long(path, piece.begin)
    yield replace(piece, size=size - piece.begin, end=size)


def _too_long(path: Path, at: int) -> UserError:
    return UserError(
        f"a JSON file of more than {BLOCK_BYTES >> 20} MiB must be JSON lines, a list of examples, or SQuAD's nested "
        f"form, with a place to cut every {MOST_PIECE_BYTES >> 20} MiB; {path} has none after byte {at}: split the "
        "element or line there"
    )
