"""Functions for Spark's `DataFrame.mapInArrow`: featurizing and answering inside a Spark job.

    schema = spark_schema(featurizer)
    features = frame.mapInArrow(featurize_in_arrow(featurizer), schema)
    answers = questions.mapInArrow(answer_in_arrow("s3://models/mine"), ANSWERS)

Each Python worker of Spark loads the tokenizer, the kernels and the model once. qa-fast must be installed where the
workers run. Nothing of Spark is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from qa_fast.builder.featurizer import Featurizer
from qa_fast.errors import UserError
from qa_fast.sources.rows import column_names, normalize_table

if TYPE_CHECKING:
    from qa_fast.answer.answerer import Answerer, AnswerOptions

InArrow = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]

# What `rejects_in_arrow` and `answer_in_arrow` give, as Spark's schema strings.
REJECTS = "id string, reason string"
ANSWERS = "id string, answers array<struct<score: double, start: bigint, end: bigint, answer: string>>, rejected string"
_ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        (
            "answers",
            pa.list_(
                pa.struct(
                    [("score", pa.float64()), ("start", pa.int64()), ("end", pa.int64()), ("answer", pa.string())]
                )
            ),
        ),
        ("rejected", pa.string()),
    ]
)
_REJECTS = pa.schema([("id", pa.string()), ("reason", pa.string())])
_DDL = {pa.int32(): "int", pa.int8(): "tinyint", pa.string(): "string"}


def spark_schema(featurizer: Featurizer) -> str:
    """The features' columns as a Spark schema string, for `mapInArrow`."""
    return ", ".join(f"{field.name} {_ddl(field.type)}" for field in featurizer.schema)


def _ddl(kind: pa.DataType) -> str:
    return f"array<{_ddl(kind.value_type)}>" if pa.types.is_list(kind) else _DDL[kind]


def featurize_in_arrow(featurizer: Featurizer) -> InArrow:
    """Examples to features.

    Args:
        featurizer: What makes them.

    Returns:
        For `mapInArrow` on a frame with the columns id, question, context and answers; its rows have `spark_schema`.
        An example that is rejected has none: `rejects_in_arrow` tells them. Ids must be unique over the whole frame,
        which a worker cannot see: `frame.dropDuplicates(["id"])` makes them so.
    """

    def features(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            table = featurizer(pa.Table.from_batches([batch])).combine_chunks()
            yield from table.to_batches()

    return features


def rejects_in_arrow(featurizer: Featurizer) -> InArrow:
    """Examples to those that are rejected, with their reasons; for `mapInArrow` with the schema `REJECTS`."""

    def rejects(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            table = pa.Table.from_batches([batch])
            names = column_names(table.column_names, featurizer.columns, "the frame")
            rows, unreadable = normalize_table(table, names, "", 0, "the frame")
            found = featurizer.featurize(rows, unreadable=unreadable).rejects
            columns = [[reject.id for reject in found], [reject.reason for reject in found]]
            yield pa.RecordBatch.from_arrays([pa.array(each, pa.string()) for each in columns], schema=_REJECTS)

    return rejects


def answer_in_arrow(
    model: str, options: AnswerOptions | None = None, *, precision: str = "auto", engine: str = "auto"
) -> InArrow:
    """Questions to answers.

    Args:
        model: Folder, URL, Hub id or "minilm", as each worker is to find it.
        options: For all questions.
        precision: See `infer.open_engine`, as for `engine`. Each worker takes as many cores as the environment variable
            QA_FAST_PROCESSORS says in it, else all of its machine.
        engine: "auto", "keras", "openvino" or "onnx".

    Returns:
        For `mapInArrow` on a frame with the columns id, question and context; its rows have the schema `ANSWERS`, one
        for each question: answers best first, or none and why it was rejected.
    """
    from qa_fast.answer.answerer import AnswerOptions as Options

    chosen = replace(options or Options())

    def answers(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        answerer = _answerer(model, precision, engine)
        for batch in batches:
            missing = [name for name in ("id", "question", "context") if name not in batch.schema.names]
            if missing:
                raise UserError(
                    f"a frame to answer must have the columns id, question and context; missing {', '.join(missing)}, "
                    f"found {', '.join(batch.schema.names)}"
                )
            asked = batch.select(["id", "question", "context"]).to_pylist()
            results = answerer.answer_pairs([(row["question"], row["context"]) for row in asked], chosen)
            rows: list[dict[str, Any]] = []
            for row, result in zip(asked, results, strict=True):
                refused = isinstance(result, str)
                rows.append(
                    {
                        "id": str(row["id"]),
                        "answers": [] if refused else result,
                        "rejected": result if refused else None,
                    }
                )
            yield pa.RecordBatch.from_pylist(rows, _ANSWERS)

    return answers


@lru_cache(maxsize=1)
def _answerer(model: str, precision: str, engine: str) -> Answerer:
    from qa_fast.answer.answerer import Answerer

    return Answerer.from_pretrained(model, precision, engine)
