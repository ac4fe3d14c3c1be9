"""Compressions and encodings of files: `sources.plain`, through the readers that all files pass."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.sources import pieces
from qa_fast.sources.pieces import BLOCK_BYTES, MOST_PIECE_BYTES, blocks_of, pieces_of
from qa_fast.sources.read import form_of, read_block, read_examples, read_piece
from tests import sample
from tests.memory_place import memory_place


def zipped(data: bytes, *names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("own")
        for name in names or ("own/train.json", "__MACOSX/own/._train.json"):
            archive.writestr(name, data)
    return file.getvalue()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def recoded(encoding: str) -> Callable[[bytes], bytes]:
    return lambda data: ("\ufeff" + data.decode()).encode(encoding)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd, "zip": zipped
}  # fmt: skip
WRAP: dict[tuple[str, ...], Callable[[bytes], bytes]] = {
    **{(name,): wrap for name, wrap in COMPRESS.items()},
    ("UTF-16",): recoded("utf-16-le"),
    ("UTF-32",): recoded("utf-32-be"),
    ("gzip", "UTF-16"): lambda data: gzip.compress(recoded("utf-16-be")(data)),
    ("zip", "gzip"): lambda data: zipped(gzip.compress(data), "train.json.gz"),
}
TEXTS = {
    "nested SQuAD JSON": json.dumps(sample.squad()),
    "JSON rows": json.dumps(sample.rows(), ensure_ascii=False),
    "JSON lines": "\n".join(json.dumps(row, ensure_ascii=False) for row in sample.rows()),
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for table, _ in read_examples(path, {}) for row in table.to_pylist()]


@pytest.mark.parametrize("layers", WRAP)
@pytest.mark.parametrize("block_bytes", [BLOCK_BYTES, 300])
def test_wrapped_json_is_read_as_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: tuple[str, ...], block_bytes: int
) -> None:
    monkeypatch.setattr(pieces, "BLOCK_BYTES", block_bytes)
    away = memory_place()
    for layout, text in TEXTS.items():
        for path in (tmp_path / "named.json", away / "a"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(WRAP[layers](text.encode()))
            assert rows_of(path) == sample.rows()
            assert form_of(path) == ", ".join((*layers, layout))


@pytest.mark.parametrize("layer", COMPRESS)
@pytest.mark.parametrize("kind", ["Parquet", "Arrow file", "Arrow stream"])
def test_compressed_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str, kind: str) -> None:
    sink, table, path = pa.BufferOutputStream(), sample.table(), tmp_path / "a"
    if kind == "Parquet":
        pq.write_table(table, sink, row_group_size=3)
    else:
        with (pa.ipc.new_file if kind == "Arrow file" else pa.ipc.new_stream)(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    path.write_bytes(COMPRESS[layer](sink.getvalue().to_pybytes()))
    for block_bytes in (BLOCK_BYTES, 300):
        monkeypatch.setattr(pieces, "BLOCK_BYTES", block_bytes)
        assert rows_of(path) == sample.rows()
        assert form_of(path) == f"{layer}, {kind}"
    monkeypatch.setattr(pieces, "MOST_PIECE_BYTES", 100)
    with pytest.raises(UserError, match=r"compressed Parquet or Arrow file must have at most .* decompress it first"):
        rows_of(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_one_clear_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    whole = WRAP[data.draw(st.sampled_from(list(WRAP)))](TEXTS["JSON rows"].encode())
    cut = data.draw(st.integers(1, len(whole)))
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at:cut])
    with contextlib.suppress(UserError):
        rows_of(path)


def test_a_bomb_meets_the_limit_of_plain_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(pieces, "MOST_PIECE_BYTES", 1 << 14)
    for text in (b'[{"context": "' + b"x" * (1 << 22) + b'"}]', b'{"a": 1}\n{"a": "' + b"x" * (1 << 22) + b'"}\n'):
        for wrap in (bytes, *COMPRESS.values()):
            (tmp_path / "a").write_bytes(wrap(text))
            read: list[int] = []
            with pytest.raises(UserError, match="with a place to cut every"):
                read += [piece.size for piece in pieces_of(tmp_path / "a")]
            assert sum(read) < 1 << 14
    assert MOST_PIECE_BYTES == 1 << 28


def test_pieces_in_order_cost_one_pass_and_in_any_order_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(TEXTS["JSON lines"].encode()))
    blocks = list(blocks_of({"train": [path]}, 300))
    assert len(blocks) > 3
    opened, open_bytes = [], store.open_bytes
    monkeypatch.setattr(store, "open_bytes", lambda path: opened.append(path) or open_bytes(path))
    assert [row for block in blocks for table, _ in read_block(block, {}) for row in table.to_pylist()] == sample.rows()
    assert len(opened) == 1
    parts = {block.number: [row for table, _ in read_block(block, {}) for row in table.to_pylist()]
             for block in reversed(blocks)}  # fmt: skip
    assert [row for number in sorted(parts) for row in parts[number]] == sample.rows()


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    for count in (sample.QUESTIONS, 2):
        path.write_bytes(gzip.compress(json.dumps(sample.rows()[:count]).encode()))
        (piece,) = pieces_of(path)
        assert sum(table.num_rows for table, _ in read_piece(piece, {})) == count


@pytest.mark.parametrize("layer", ["gzip", "bzip2", "xz", "zstd"])
def test_several_compressed_streams_are_one(tmp_path: Path, layer: str) -> None:
    text, wrap = TEXTS["JSON rows"].encode(), COMPRESS[layer]
    (tmp_path / "a").write_bytes(wrap(text[:100]) + wrap(b"") + wrap(text[100:]))
    assert rows_of(tmp_path / "a") == sample.rows()


def test_an_xz_file_may_not_ask_for_all_memory(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 28}]
    (tmp_path / "a").write_bytes(lzma.compress(b"[]", filters=filters))
    with pytest.raises(UserError, match="must be a whole xz file; Memory usage limit exceeded"):
        rows_of(tmp_path / "a")


SENTENCES = {
    "CP932": "水車は一八八七年にホルムさんによって再建されました。",
    "EUC-JP": "水車は一八八七年にホルムさんによって再建されました。",
    "CP949": "오스뷔의 물레방아는 카린 홀름이 다시 지었다. 그는 마을의 선생님이었다.",
    "GB18030": "奥斯比的磨坊是在一八八七年重建的，当时全村只有九条船。",
    "BIG5": "奧斯比的磨坊是在一八八七年重建的，當時全村只有九條船。",
    "CP1251": "Мельница в Осби была восстановлена.",
    "KOI8-R": "Мельница в Осби была восстановлена.",
    "CP1252": "Le moulin fut rénové par Karin, née à Mora, l'été passé.",
}


@pytest.mark.parametrize("encoding", SENTENCES)
def test_another_encoding_is_named_once(tmp_path: Path, encoding: str) -> None:
    row = json.dumps({"question": "?", "context": SENTENCES[encoding], "answers": []}, ensure_ascii=False)
    for name, text in (("a.json", f"[{row}]"), ("a.jsonl", "\n".join([row] * 3))):
        (tmp_path / name).write_bytes(text.encode(encoding))
        with pytest.raises(UserError, match=rf"{name} must be UTF-8; received byte .* is probably {encoding}, which"):
            rows_of(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zipped(b"[]", "a.json", "b.json"), "hold one file of data; it is a zip of 2 files: unpack it into a folder"),
        (zipped(b"", "[Content_Types].xml", "xl/workbook.xml"), "it is a workbook: save the sheet as CSV"),
        (gzip.compress(zipped(b"[]")), "must not hold a zip file inside another compression"),
        (gzip.compress(gzip.compress(gzip.compress(gzip.compress(b"[]")))), "at most 3 compressions in one another"),
        (gzip.compress(b"a.json".ljust(257, b"\0") + b"ustar"), "it is an archive: unpack it into a folder"),
        (b"%PDF-1.7", "it is a PDF or Office file"),
        (b"\x80\x04\x95", "it is a Python pickle"),
        ("[{}]".encode("utf-16-be"), "it is UTF-16 without a byte order mark: .* iconv -f UTF-16BE"),
        (gzip.compress(TEXTS["JSON rows"].encode())[:-9], "must be a whole gzip file; .* ended before"),
        (recoded("utf-16")(b"[{}]")[:-1], "must be a whole UTF-16 file; .* truncated data"),
    ],
    # The time in compressed data would make ids that differ between processes.
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_other_kinds_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.json .*{message}"):
        rows_of(tmp_path / "a.json")
