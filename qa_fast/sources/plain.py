"""Opens files as plain bytes: compressed files decompressed, and text in UTF-16 or UTF-32 as UTF-8.

Both are recognised by the first bytes of a file and not by its name. Each is a *layer*, and layers may lie in one
another, such as UTF-16 in gzip. Nothing is unpacked to disk, and only what is asked for is unpacked in memory, so that
a small file with a huge content meets the limits of every other file. A stream can only be read forwards: the last one
of each thread stays open, so that the pieces of a file, read in order, cost one pass over it.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from qa_fast import store
from qa_fast.errors import UserError, first_line

Layers = tuple[str, ...]

# Ending of a name -> the layer that it stands for.
COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
_TEXTS = ("UTF-16", "UTF-32")
_STARTS = {
    "gzip": (b"\x1f\x8b",),
    "bzip2": tuple(b"BZh%d1AY&SY" % level for level in range(1, 10)),
    "xz": (b"\xfd7zXZ\x00",),
    "zstd": (b"\x28\xb5\x2f\xfd",),
    "zip": (b"PK\x03\x04", b"PK\x05\x06"),
    "UTF-32": (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff"),
    "UTF-16": (b"\xff\xfe", b"\xfe\xff"),
}
# Other files with a well-known start: what they are, and what to do.
_ARCHIVE = "it is an archive: unpack it into a folder, and name the folder"
_FOREIGN = {
    (b"7z\xbc\xaf", b"Rar!"): _ARCHIVE,
    (b"\x04\x22\x4d\x18",): "it is compressed with LZ4: decompress it",
    (b"%PDF-", b"\xd0\xcf\x11\xe0"): "it is a PDF or Office file: convert it",
    (b"x\x9c", b"x\xda"): "it is compressed with zlib, as the .spacy files of spaCy are: convert it",
    (b"SQLite format 3",): "it is an SQLite database: convert it",
    (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"): "it is a Python pickle, which could run any code: convert it",
}
# Bytes that tell a layer or another kind of file.
HEAD_BYTES = 262
_MOST_LAYERS = 3
_CHUNK = 1 << 18
# The memory that an xz file may ask for, twice of what `xz -9` does.
_MOST_XZ_BYTES = 1 << 27
# Encodings by what is frequent in their texts, and its least share among the characters that are not ASCII.
_ENCODINGS = (
    ("CP932", "[\u3040-\u30ff]", 0.3),
    ("EUC-JP", "[\u3040-\u30ff]", 0.3),
    ("CP949", "[\uac00-\ud7a3]", 0.8),
    ("GB18030", "[的一是在不了有和人这中大为上个国以要他时来用们]", 0.1),
    ("BIG5", "[的一是在不了有和人這中大為上個國以要他時來用們]", 0.1),
    ("CP1251", "[а-яё]{3,}", 0.6),
    ("KOI8-R", "[а-яё]{3,}", 0.6),
)


def layer_of(head: bytes) -> str | None:
    """Return the layer that the first `HEAD_BYTES` of a file tell; None if they are plain."""
    return next((name for name, start in _STARTS.items() if head.startswith(start)), None)


def open_plain(path: Path) -> tuple[io.BufferedReader, Layers]:
    """Open a file as plain bytes, which can only be read forwards if it has layers.

    Returns:
        The stream, and the names of the layers that were taken off, the outermost first.

    Raises:
        OSError: The file cannot be read; on a remote path any error may be raised, see `store.reached`.
        UserError: The file is of a kind that is not read. Reading the stream raises it if a layer is damaged.
    """
    return unwrapped(store.open_bytes(path), str(path))


def unwrapped(
    file: BinaryIO, where: str, kinds: str = "JSON, text, Parquet or Arrow"
) -> tuple[io.BufferedReader, Layers]:
    """Take the layers off a stream that is at its start; see `open_plain`. A message names the kinds that are read."""
    stream = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(Any, file))
    layers: list[str] = []
    try:
        while (layer := layer_of(stream.peek(HEAD_BYTES))) is not None:
            if len(layers) == _MOST_LAYERS:
                raise UserError(f"{where} must have at most {_MOST_LAYERS} compressions in one another; it has more")
            stream = io.BufferedReader(_Layer(stream, layer, where), _CHUNK)
            layers.append(layer)
        foreign = _foreign(stream.peek(HEAD_BYTES))
        if foreign is not None:
            raise UserError(f"{where} must be {kinds}; {foreign}")
    except BaseException:
        stream.close()
        raise
    return stream, tuple(layers)


def _foreign(head: bytes) -> str | None:
    """Return what a file is that is not read, and what to do; None if it may be read."""
    zeros = head[0:8:2].count(0), head[1:8:2].count(0)
    if zeros in ((0, 4), (4, 0)):
        name = "UTF-16LE" if zeros[1] else "UTF-16BE"
        return f"it is UTF-16 without a byte order mark: save it as UTF-8, such as with iconv -f {name} -t UTF-8"
    if head[257:262] == b"ustar" and 0 in head[:100]:  # which fills up the name of the first member
        return _ARCHIVE
    return next((words for starts, words in _FOREIGN.items() if head.startswith(starts)), None)


class _Layer(io.RawIOBase):
    """The bytes inside a layer of a stream."""

    def __init__(self, source: io.BufferedReader, layer: str, where: str) -> None:
        self._source, self._layer, self._where = source, layer, where
        self._chunks = _recoded(source, layer) if layer in _TEXTS else _decompressed(source, layer, where)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = memoryview(self._next())
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

    def _next(self) -> bytes:
        import lzma
        import zipfile

        try:
            return next(self._chunks, b"")
        except UserError:
            raise
        # A RuntimeError is zipfile's for an encrypted member.
        except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, ValueError) as error:
            if isinstance(error, OSError) and (error.errno or isinstance(error, TimeoutError | ConnectionError)):
                raise  # the file itself cannot be read
            rule = f"{self._where} must be a whole {self._layer} file"
            raise UserError(f"{rule}; {first_line(error)}: fetch or write it again") from None

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def _recoded(source: io.BufferedReader, encoding: str) -> Iterator[bytes]:
    """Yield text as UTF-8 without a byte order mark."""
    # It raises an error if the stream ends in the middle of a character.
    for text in codecs.iterdecode(iter(partial(source.read, _CHUNK), b""), encoding):
        yield text.encode()


def _decompressed(source: io.BufferedReader, layer: str, where: str) -> Iterator[bytes]:
    inside: Any
    if layer == "gzip":
        import gzip

        inside = gzip.GzipFile(fileobj=source)
    elif layer == "bzip2":
        import bz2

        inside = bz2.BZ2File(source)
    elif layer == "xz":
        yield from _from_xz(source)
        return
    elif layer == "zstd":
        import pyarrow as pa

        inside = pa.CompressedInputStream(pa.PythonFile(source, "r"), "zstd")
    else:
        inside = _single_member(source, where)
    while data := inside.read(_CHUNK):
        yield data


def _from_xz(source: io.BufferedReader) -> Iterator[bytes]:
    """Yield what is in the streams of an xz file. `LZMAFile` has no limit for the memory that a file asks for."""
    import lzma

    while data := source.read(_CHUNK).lstrip(b"\0"):  # zeros may fill up the space between streams
        decoder = lzma.LZMADecompressor(memlimit=_MOST_XZ_BYTES)
        while True:
            if out := decoder.decompress(data, _CHUNK):
                yield out
            if decoder.eof:
                data = decoder.unused_data.lstrip(b"\0")
                if not data:
                    break
                decoder = lzma.LZMADecompressor(memlimit=_MOST_XZ_BYTES)
            else:
                data = source.read(_CHUNK) if decoder.needs_input else b""
                if decoder.needs_input and not data:
                    raise EOFError("it ends too early")


def _single_member(source: io.BufferedReader, where: str) -> Any:
    """Open the single file in a zip file."""
    import zipfile

    if not source.seekable():
        raise UserError(f"{where} must not hold a zip file inside another compression; it does: decompress it first")
    archive = zipfile.ZipFile(source)
    names = _members(archive)
    if len(names) != 1:
        what = f"it is a zip of {len(names)} files: unpack it into a folder, and name the folder"
        if any(name.startswith("xl/") for name in names):
            what = "it is a workbook: save the sheet as CSV in UTF-8"
        elif "content.xml" in names or any(name.startswith(("word/", "ppt/")) for name in names):
            what = "it is an Office document: save a text in UTF-8, and a sheet as CSV"
        raise UserError(f"{where} must hold one file of data; {what}")
    return archive.open(names[0])


def _members(archive: Any) -> list[str]:
    """Return the names of the files in a zip file, without those that macOS adds and hidden ones."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    return [name for name in names if not name.startswith("__MACOSX/") and not PurePosixPath(name).name.startswith(".")]


def members_of(path: Path) -> list[str]:
    """Return the names of the files in a zip file; none if it cannot be read."""
    import zipfile

    try:
        with store.open_bytes(path) as file, zipfile.ZipFile(file) as archive:
            return _members(archive)
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):  # a RuntimeError is one for an unknown version
        return []


class _Kept(threading.local):
    """The last stream of a thread: its file and process, the stream, and the number of bytes that were read."""

    key: tuple[int, str] | None = None
    stream: io.BufferedReader | None = None
    at = 0

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.key = self.stream = None


_kept = _Kept()


def read_range(path: Path, begin: int, end: int, layers: Layers) -> bytes:
    """Return the bytes [begin, end) inside the layers of a file; fewer if there are fewer.

    Raises:
        OSError: See `open_plain`.
        UserError: A layer is damaged.
    """
    if not layers:
        return store.read_range(path, begin, end)
    key = (os.getpid(), str(path))  # a forked process shares the position in the file with its parent
    # A range from the start opens the file anew, since it may have been replaced.
    if _kept.stream is None or _kept.key != key or begin < _kept.at or begin == 0:
        _kept.close()
        _kept.stream, _ = open_plain(path)
        _kept.key, _kept.at = key, 0
    stream, more = _kept.stream, False
    try:
        while _kept.at < begin and (skipped := stream.read(min(begin - _kept.at, _CHUNK))):
            _kept.at += len(skipped)
        data = stream.read(end - begin)
        _kept.at += len(data)
        more = bool(stream.peek(1))
        return data
    finally:
        if not more:
            _kept.close()


def not_utf8(where: str, data: bytes, start: int, at: str) -> UserError:
    """Return the error for text in another encoding than UTF-8, with the one that it probably has.

    Args:
        where: The name of the text.
        data: Its bytes.
        start: The first byte that is not UTF-8.
        at: The place of this byte, in words.
    """
    encoding = _likely_encoding(data[start : start + 4096])
    return UserError(
        f"{where} must be UTF-8; received byte 0x{data[start]:02x} {at}: save it as UTF-8; its encoding is probably "
        f"{encoding}, which iconv -f {encoding} -t UTF-8 converts"
    )


def _likely_encoding(data: bytes) -> str:
    for name, frequent, least in _ENCODINGS:
        text = data.decode(name, "replace")
        others = sum(not char.isascii() for char in text)
        if sum(map(len, re.findall(frequent, text))) > least * others:
            return name
    return "CP1252"


def check_lines(data: bytes, where: str, first_line: int) -> None:
    """Refuse lines of text in another encoding than UTF-8. A few damaged lines are not refused.

    Args:
        data: The lines.
        where: The name of their file.
        first_line: The number of the first line in the file, from 1.

    Raises:
        UserError: More lines are not UTF-8 than are UTF-8 with characters beyond ASCII, and they are no exception.
    """
    others, bad, number = 0, [], first_line
    for number, line in enumerate(io.BytesIO(data), first_line):
        if not line.isascii():
            try:
                line.decode()
                others += 1
            except UnicodeDecodeError as error:
                bad.append((number, line, error.start))
    if len(bad) > max(1, others, (number - first_line) // 100):
        number, line, start = bad[0]
        raise not_utf8(where, line, start, f"in line {number}")
