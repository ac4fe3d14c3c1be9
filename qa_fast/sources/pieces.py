"""Files cut into pieces that any process reads on its own, and pieces gathered into blocks that make a shard each.

What a block holds hangs on the files alone, so one process and many, a first run and one that goes on, make the same
shards. Cutting costs a footer's reading for Parquet, a pass over the bytes for JSON (about 1 GB/s), and nothing for a
file smaller than a block, which is one piece.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.sources.rows import TABLE_ROWS

# Bytes of source that make a shard: so many for a shard's fixed costs not to count, so few that many workers find work
# and little is lost with one. Of JSON like SQuAD's they are 47,000 questions and make 45 MB of features.
# What libraries raise for files that are damaged or out of reach; names of columns may be no UTF-8 any more.
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
BLOCK_BYTES = 1 << 24
# Uncompressed bytes of Parquet row groups, or of Arrow batches, and rows, that make a piece.
_GROUP_BYTES = 1 << 26
_PIECE_ROWS = 4 * TABLE_ROWS
# Bytes looked at to tell JSON lines from a document; of one line there may be more than fit.
_HEAD_BYTES = 1 << 24
# A piece must be held in memory several times over; a document with no place to cut for so long is refused.
MOST_PIECE_BYTES = 1 << 28

PARQUET, ARROW_FILE, ARROW_STREAM = "Parquet", "Arrow file", "Arrow stream"
WHOLE_JSON, JSON_LINES, JSON_DOCUMENT = "JSON", "JSON lines", "JSON document"


@dataclass(frozen=True)
class Piece:
    """A stretch of a file.

    Attributes:
        path: Local path or URL.
        kind: One of this module's kinds.
        size: Bytes of the source that it holds, about.
        begin: First byte, row group or record batch.
        end: One past the last; -1 is the file's end.
        first: Number of its first row in the file: row, line, or element of the document.
        paragraph: Of a document: number of its first member of "paragraphs", where it begins among them.
        opening: What makes bytes from the middle of a document one of their own, before them.
        closing: And behind them.
        id_prefix: Names rows without ids, before their number.
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


@dataclass(frozen=True)
class Block:
    """What makes one shard.

    Attributes:
        split: "train", "validation", ...
        number: Of its split's blocks, in the order of the source.
        pieces: In that order.
        limit: At most so many rows of it; None is all.
    """

    split: str
    number: int
    pieces: tuple[Piece, ...]
    limit: int | None = None

    @property
    def name(self) -> str:
        """Tells the block from all others of its source."""
        return f"{self.split}-{self.number:05d}"

    @property
    def size(self) -> int:
        """Bytes of the source that it holds, about."""
        return sum(piece.size for piece in self.pieces)


def blocks_of(splits: Mapping[str, Sequence[Path]], block_bytes: int | None = None) -> Iterator[Block]:
    """Cut the files of all splits into blocks, one split after the other; made as they are asked for.

    Args:
        splits: Split -> files, in reading order.
        block_bytes: Bytes of a block; None takes `BLOCK_BYTES`.

    Raises:
        UserError: A file cannot be read, or is one that cannot be cut and is too large to be read whole.
    """
    block_bytes = block_bytes or BLOCK_BYTES
    for split, paths in splits.items():
        number, size = 0, 0
        pending: list[Piece] = []
        for at, path in enumerate(paths):
            # Rows without ids are numbered, and two files must not give the same.
            for piece in pieces_of(path, f"row-{at}-" if len(paths) > 1 else "row-", block_bytes):
                if pending and size + piece.size > block_bytes:
                    yield Block(split, number, tuple(pending))
                    number, pending, size = number + 1, [], 0
                pending.append(piece)
                size += piece.size
        if pending:
            yield Block(split, number, tuple(pending))


def pieces_of(path: Path, id_prefix: str = "row-", block_bytes: int | None = None) -> Iterator[Piece]:
    """Cut one file; its kind is told by its first bytes, not by its name.

    Raises:
        UserError: It cannot be read, or cannot be cut and is too large to be read whole.
    """
    kind, block_bytes = "JSON", block_bytes or BLOCK_BYTES
    try:
        with store.reached(path, "SOURCE"):
            with store.open_bytes(path) as file:
                head = file.read(8)
            size = store.size_of(path)
            if head.startswith(b"PAR1"):
                kind = "Parquet"
                yield from _of_parquet(path, id_prefix, block_bytes)
            elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
                kind = "Arrow"
                yield from _of_arrow(path, size, head.startswith(b"ARROW1"), id_prefix, block_bytes)
            elif size <= block_bytes:
                yield Piece(str(path), WHOLE_JSON, size, id_prefix=id_prefix)
            elif _is_lines(path):
                yield from _of_lines(path, size, id_prefix, block_bytes)
            else:
                yield from _of_document(path, size, id_prefix, block_bytes)
    except UNREADABLE as error:
        raise not_whole(path, kind, error) from None


def not_whole(path: Path, kind: str, error: Exception) -> UserError:
    """What to say of a file that cannot be read.

    Args:
        path: The file.
        kind: What it should be: JSON, Parquet, Arrow.
        error: One of `UNREADABLE`.
    """
    if isinstance(error, OSError) and error.filename:
        return UserError(f"{path} must be readable; {error.strerror}")
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(f"{path} must be a whole {kind} file; {reason}: fetch or write it again")


def _of_parquet(path: Path, id_prefix: str, block_bytes: int) -> Iterator[Piece]:
    """Runs of row groups."""
    import pyarrow.parquet as pq

    with store.open_random(path) as opened, pq.ParquetFile(opened) as file:
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        sizes = [(group.num_rows, group.total_byte_size) for group in groups]
    yield from _runs(Piece(str(path), PARQUET, 0, id_prefix=id_prefix), sizes, block_bytes)


def _of_arrow(path: Path, size: int, is_file: bool, id_prefix: str, block_bytes: int) -> Iterator[Piece]:
    """Runs of record batches; a remote stream, which is read from its start each time, in one."""
    kind = ARROW_FILE if is_file else ARROW_STREAM
    whole = Piece(str(path), kind, size, id_prefix=id_prefix)
    if size <= block_bytes or not (is_file or store.is_local(path)):
        yield whole
        return
    if store.is_local(path):
        opened: pa.NativeFile = pa.memory_map(os.fsencode(path))  # nothing but the batches' lengths is looked at
    else:
        opened = store.open_random(path)
    with opened as mapped:
        if is_file:
            reader = pa.ipc.open_file(mapped)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(mapped))
        sizes = []
        for batch in batches:
            batch.validate()  # the ends of its buffers, without which not even its size can be asked for
            sizes.append((batch.num_rows, batch.nbytes))
    yield from _runs(replace(whole, size=0), sizes, block_bytes)


def _runs(piece: Piece, sizes: list[tuple[int, int]], block_bytes: int) -> Iterator[Piece]:
    """Runs of groups of rows, each of so many rows and bytes."""
    most_rows, most = (limit * block_bytes // BLOCK_BYTES for limit in (_PIECE_ROWS, _GROUP_BYTES))
    begin = rows = size = row = 0
    for number, (more_rows, more) in enumerate(sizes):
        if number > begin and (rows + more_rows > most_rows or size + more > most):
            yield replace(piece, begin=begin, end=number, first=row, size=_weight(rows, size))
            begin, row, rows, size = number, row + rows, 0, 0
        rows, size = rows + more_rows, size + more
    yield replace(piece, begin=begin, end=len(sizes), first=row, size=_weight(rows, size))


def _weight(rows: int, size: int) -> int:
    """Bytes that the rows would have as JSON, about: contexts that repeat are written once there, as here."""
    return max(size * BLOCK_BYTES // _GROUP_BYTES, rows * BLOCK_BYTES // _PIECE_ROWS)


def _is_lines(path: Path) -> bool:
    """Whether a long file is JSON lines: its first line is an object, and it is not the only one.

    One bad line, the first, must not make JSON lines one bad document.
    """
    with store.open_bytes(path) as file:
        head = file.read(_HEAD_BYTES)
    lines = [line.strip() for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n")[:64]]
    lines = [line for line in lines if line][:3]
    if len(lines) < 2:
        return False
    return is_object(lines[0]) or (lines[0].startswith(b"{") and all(is_object(line) for line in lines[1:]))


def is_object(line: bytes) -> bool:
    """Whether a line is a JSON object of its own."""
    line = line.strip()
    if not (line.startswith(b"{") and line.endswith(b"}")):
        return False
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _of_lines(path: Path, size: int, id_prefix: str, block_bytes: int) -> Iterator[Piece]:
    """Runs of whole lines."""
    begin = first = 0
    with store.open_bytes(path) as file:
        while begin < size:
            data = file.read(block_bytes)
            end, lines = begin + len(data), data.count(b"\n")
            if not data.endswith(b"\n"):
                rest = file.readline(MOST_PIECE_BYTES)
                if len(rest) == MOST_PIECE_BYTES:
                    raise _too_long(path, end)
                end, lines = end + len(rest), lines + rest.endswith(b"\n")
            yield Piece(str(path), JSON_LINES, end - begin, begin, end, first, id_prefix=id_prefix)
            begin, first = end, first + lines


def _of_document(path: Path, size: int, id_prefix: str, block_bytes: int) -> Iterator[Piece]:
    """Pieces of one document, at its elements or at the paragraphs within them."""
    from qa_fast.kernels import json_cuts

    state = np.zeros(json_cuts.STATE, np.int64)
    out: list[np.ndarray] = [np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(4, np.uint8)]
    piece = Piece(str(path), JSON_DOCUMENT, 0, id_prefix=id_prefix)
    with store.open_bytes(path) as file:
        while data := file.read(block_bytes):
            found = json_cuts.find_cuts(np.frombuffer(data, np.uint8), block_bytes, state, *out)
            for position, element, paragraph, nested in zip(*(each[:found].tolist() for each in out), strict=True):
                is_list = state[json_cuts.BASE] == 1
                inside = paragraph >= 0
                closing = (b"]}" if inside else b"") + (b"]" if is_list else b"]}")
                yield replace(piece, size=position - piece.begin, end=position - 1, closing=closing)  # not the comma
                opening = b"[" if is_list else b'{"data":['
                # An empty element says of what kind the others are, where the piece itself might not.
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
        f"form, with a place to cut every {MOST_PIECE_BYTES >> 20} MiB; {path} has none behind byte {at}: split what "
        "stands there"
    )
