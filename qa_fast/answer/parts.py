"""Answers blocks of questions into one file, JSON lines or Parquet.

`PartMaker` holds everything that a process needs to answer any block, and can be pickled; `bulk` hands it blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from qa_fast import store
from qa_fast.answer.answerer import ROWS_AT_ONCE, Answerer
from qa_fast.answer.options import AnswerOptions
from qa_fast.errors import UnreachableError
from qa_fast.raw import Reject
from qa_fast.shards.format import FILE_FACTS, file_checksum
from qa_fast.shards.journal import BlockFacts, Journal
from qa_fast.sources.pieces import Block
from qa_fast.sources.read import read_block

FORMATS = ("jsonl", "parquet")
# How the name of a part begins.
PART = "part"
_ANSWER = [("score", pa.float64()), ("start", pa.int64()), ("end", pa.int64()), ("answer", pa.string())]
_SENTENCE = [("sentence", pa.string()), ("sentence_start", pa.int64()), ("sentence_end", pa.int64())]


@contextlib.contextmanager
def writable(out: Path) -> Iterator[None]:
    """Turn failures to write the output into errors for the user.

    Raises:
        UnreachableError: An `OSError` was raised. The same command may succeed later, such as with more space.
    """
    try:
        yield
    except OSError as error:
        raise UnreachableError(
            f"--output must be writable, with enough free space; {out}: {error.strerror or error}"
        ) from None


@dataclass(frozen=True)
class AnswerWriter:
    """Answers blocks of questions into a file.

    Attributes:
        options: Options for all questions.
        columns: Our names of columns -> the input's names.
        form: One of `FORMATS`.
    """

    options: AnswerOptions
    columns: dict[str, str]
    form: str

    def write(
        self,
        local: Path,
        blocks: Iterable[Block],
        answerer: Answerer,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> tuple[int, list[Reject]]:
        """Answer blocks one after the other into a local file.

        Args:
            local: The file to write.
            blocks: Blocks of the input.
            answerer: The model.
            progress: Receives the number of rows done since the last call.

        Returns:
            The number of rows answered, and the rejected rows.

        Raises:
            UserError: A block cannot be read.
        """
        answered = 0
        rejects: list[Reject] = []
        with self._writing(local) as write:
            for block in blocks:
                for table, unreadable in read_block(block, self.columns, answered=False):
                    rejects += unreadable
                    for begin in range(0, table.num_rows, ROWS_AT_ONCE):
                        rows = table.slice(begin, ROWS_AT_ONCE).select(["id", "question", "context"]).to_pylist()
                        answers, rejected = self._answer(rows, answerer)
                        write(answers)
                        answered += len(answers)
                        rejects += rejected
                    progress(table.num_rows + len(unreadable))
        return answered, rejects

    def _answer(self, rows: list[dict[str, Any]], answerer: Answerer) -> tuple[list[dict[str, Any]], list[Reject]]:
        """Return the output rows of the questions that were answered, and the rejected ones."""
        answers, rejects = [], []
        results = answerer.answer_pairs([(row["question"], row["context"]) for row in rows], self.options)
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, str):
                rejects.append(Reject(row["id"], result))
            else:
                content = {"answers": result} if self.options.is_list else result[0]
                answers.append({"id": row["id"], "question": row["question"], **content})
        return answers, rejects

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
        """Open a file and yield the function that appends rows to it."""
        if self.form == "jsonl":
            with path.open("wb") as file:
                yield lambda rows: file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
            return
        import pyarrow.parquet as pq

        fields = _ANSWER + _SENTENCE if self.options.evidence else _ANSWER
        answers = [("answers", pa.list_(pa.struct(fields)))] if self.options.is_list else fields
        schema = pa.schema([("id", pa.string()), ("question", pa.string()), *answers])
        with pq.ParquetWriter(path, schema) as writer:
            yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema))


@dataclass(frozen=True)
class PartMaker:
    """Everything that a process needs to answer one block into one part of a folder. It can be pickled.

    Attributes:
        model: Folder, URL, Hub id or "minilm", from which each process loads the model.
        precision: See `infer.open_engine`.
        engine: See `infer.open_engine`.
        writer: Writes the answers.
        out: The folder of answers.
        fingerprint: Hash of everything that decides the answers.
    """

    model: str
    precision: str
    engine: str
    writer: AnswerWriter
    out: Path
    fingerprint: str

    @property
    def journal(self) -> Journal:
        """The record of finished parts."""
        return Journal(self.out, self.fingerprint, with_ids=False)

    def keep_or_make(self, block: Block, answerer: Callable[[], Answerer]) -> BlockFacts:
        """Return the facts about a block's part, which is made unless a previous run has finished it.

        Args:
            block: A block of the input.
            answerer: Returns the model, which is loaded only if it is needed.

        Raises:
            UserError: The block cannot be read, or its part cannot be written.
        """
        return self.journal.finished(block) or self.make(block, answerer())

    def make(self, block: Block, answerer: Answerer) -> BlockFacts:
        """Answer one block. Its part is put in place and recorded once the whole block is answered."""
        name = f"{PART}-{self.fingerprint[:8]}-{block.number:05d}.{self.writer.form}"
        with writable(self.out):
            with store.whole_file(self.out / name) as local:
                answered, rejects = self.writer.write(local, [block], answerer)
                checksum, size = file_checksum(local), store.size_of(local)
            file = dict(zip(FILE_FACTS, (name, block.number, answered, size, checksum), strict=True))
            first = (rejects[0].id, rejects[0].reason) if rejects else None
            counts = {"answered": answered, "rejected": len(rejects)}
            facts = BlockFacts(sum(counts.values()), counts, [file], first)
            self.journal.write(block, facts, None, rejects)
        return facts
