"""The answers to a block's questions, as one file: JSON lines or Parquet.

`PartMaker` is all that a process needs to answer any block, and pickles; `bulk` hands it blocks.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from qa_fast import store
from qa_fast.answer.answerer import Answerer, AnswerOptions, Result
from qa_fast.raw import Reject
from qa_fast.shards.format import FILE_FACTS, file_checksum
from qa_fast.shards.journal import BlockFacts, Journal
from qa_fast.sources.pieces import Block
from qa_fast.sources.read import read_block

FORMATS = ("jsonl", "parquet")
# What a part's name begins with.
PART = "part"
# Rows answered together: enough to fill batches and to encode a document once for all its questions.
_ROWS_AT_A_TIME = 512
_ANSWER = [("score", pa.float64()), ("start", pa.int64()), ("end", pa.int64()), ("answer", pa.string())]


@dataclass(frozen=True)
class PartMaker:
    """All that a process needs to answer a block; pickles.

    Attributes:
        model: Folder, URL, Hub id or "minilm", as each process is to find it.
        precision: See `infer.open_engine`, as for `engine`.
        engine: How the model is computed.
        options: For all questions.
        columns: Ours -> theirs.
        out: The folder of answers.
        fingerprint: Of the run.
        form: One of `FORMATS`.
    """

    model: str
    precision: str
    engine: str
    options: AnswerOptions
    columns: dict[str, str]
    out: Path
    fingerprint: str
    form: str

    @property
    def journal(self) -> Journal:
        """Where finished parts are noted."""
        return Journal(self.out, self.fingerprint, with_ids=False)

    def name(self, block: Block) -> str:
        """Of the block's part."""
        return f"{PART}-{self.fingerprint[:8]}-{block.number:05d}.{self.form}"

    def make(self, block: Block, answerer: Answerer) -> BlockFacts:
        """Answer one block; its part is in its place, and noted, when all of it is answered.

        Raises:
            UserError: The block cannot be read, or its part not be written.
        """
        rejects: list[Reject] = []
        rows = answered = 0
        with store.whole_file(self.out / self.name(block)) as local:
            with contextlib.closing(_writer(local, self.form, self.options.top_k == 1)) as writer:
                for table, unreadable in read_block(block, self.columns, answered=False):
                    rejects += unreadable
                    for begin in range(0, table.num_rows, _ROWS_AT_A_TIME):
                        asked = table.slice(begin, _ROWS_AT_A_TIME).select(["id", "question", "context"]).to_pylist()
                        pairs = [(row["question"], row["context"]) for row in asked]
                        good: list[tuple[str, str, Result]] = []
                        for row, result in zip(asked, answerer.answer_pairs(pairs, self.options), strict=True):
                            if isinstance(result, str):
                                rejects.append(Reject(row["id"], result))
                            else:
                                good.append((row["id"], row["question"], result))
                        writer.add(good)
                        rows, answered = rows + len(asked), answered + len(good)
            checksum, size = file_checksum(local), store.size_of(local)
        file = dict(zip(FILE_FACTS, (self.name(block), block.number, answered, size, checksum), strict=True))
        first = (rejects[0].id, rejects[0].reason) if rejects else None
        facts = BlockFacts(rows, {"answered": answered, "rejected": len(rejects)}, [file], first)
        self.journal.write(block, facts, None, rejects)
        return facts


class _Lines:
    """Answers as JSON lines."""

    def __init__(self, path: Path, single: bool) -> None:
        self._file, self._single = path.open("wb"), single

    def add(self, answers: list[tuple[str, str, Any]]) -> None:
        for row_id, question, found in answers:
            given = dict(found[0]) if self._single else {"answers": found}
            line = {"id": row_id, "question": question, **given}
            self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        self._file.close()


class _Columns:
    """Answers as Parquet."""

    def __init__(self, path: Path, single: bool) -> None:
        import pyarrow.parquet as pq

        answers = _ANSWER if single else [("answers", pa.list_(pa.struct(_ANSWER)))]
        self._schema = pa.schema([("id", pa.string()), ("question", pa.string()), *answers])
        self._file, self._single = pq.ParquetWriter(path, self._schema), single

    def add(self, answers: list[tuple[str, str, Any]]) -> None:
        rows = [
            {"id": row_id, "question": question, **(found[0] if self._single else {"answers": found})}
            for row_id, question, found in answers
        ]
        if rows:
            self._file.write_table(pa.Table.from_pylist(rows, self._schema))

    def close(self) -> None:
        self._file.close()


def _writer(path: Path, form: str, single: bool) -> _Lines | _Columns:
    return _Lines(path, single) if form == "jsonl" else _Columns(path, single)
