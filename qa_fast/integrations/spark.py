"""Functions for Spark's `DataFrame.mapInArrow`, which featurize and answer inside a Spark job.

Each Python worker of Spark loads the tokenizer, the kernels and the model once. qa-fast must be installed on the
workers. This module does not import Spark.

Examples:
    >>> featurizer = Featurizer("minilm")
    >>> features = frame.mapInArrow(featurize_in_arrow(featurizer), spark_schema(featurizer))
    >>> answers = questions.mapInArrow(answer_in_arrow("s3://models/mine"), ANSWERS)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from qa_fast.answer.options import AnswerOptions
from qa_fast.builder.featurizer import Featurizer
from qa_fast.errors import UserError

if TYPE_CHECKING:
    from qa_fast.answer.answerer import Answerer

InArrow = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]

# Schemas of the rows that `rejects_in_arrow` and `answer_in_arrow` return, for Spark and for Arrow.
REJECTS = "id string, reason string"
ANSWERS = "id string, answers array<struct<score: double, start: bigint, end: bigint, answer: string>>, rejected string"
_ANSWER = pa.struct([("score", pa.float64()), ("start", pa.int64()), ("end", pa.int64()), ("answer", pa.string())])
_ANSWERS = pa.schema([("id", pa.string()), ("answers", pa.list_(_ANSWER)), ("rejected", pa.string())])
_REJECTS = pa.schema([("id", pa.string()), ("reason", pa.string())])
_DDL = {pa.int32(): "int", pa.int8(): "tinyint", pa.string(): "string"}


def spark_schema(featurizer: Featurizer) -> str:
    """Return the columns of features as a Spark schema string, for `mapInArrow`."""
    return ", ".join(f"{field.name} {_ddl(field.type)}" for field in featurizer.schema)


def _ddl(kind: pa.DataType) -> str:
    return f"array<{_ddl(kind.value_type)}>" if pa.types.is_list(kind) else _DDL[kind]


def featurize_in_arrow(featurizer: Featurizer) -> InArrow:
    """Return a function that turns examples into features.

    Args:
        featurizer: Makes the features.

    Returns:
        A function for `mapInArrow` on a frame with the columns id, question, context and answers. Its rows have
        `spark_schema`. A rejected example has no rows; `rejects_in_arrow` returns it. Ids must be unique over the whole
        frame, which a worker cannot check: `frame.dropDuplicates(["id"])` makes them so.

    Examples:
        >>> frame.mapInArrow(featurize_in_arrow(featurizer), spark_schema(featurizer)).write.parquet("features")
    """

    def features(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from featurizer(batch).combine_chunks().to_batches()

    return features


def rejects_in_arrow(featurizer: Featurizer) -> InArrow:
    """Return a function that turns examples into the rejected ones, for `mapInArrow` with the schema `REJECTS`.

    Examples:
        >>> frame.mapInArrow(rejects_in_arrow(featurizer), REJECTS).show()
    """

    def rejects(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rejected = featurizer.featurize(batch).rejects
            pairs = [{"id": reject.id, "reason": reject.reason} for reject in rejected]
            yield pa.RecordBatch.from_pylist(pairs, _REJECTS)

    return rejects


def answer_in_arrow(
    model: str, options: AnswerOptions | None = None, *, precision: str = "auto", engine: str = "auto"
) -> InArrow:
    """Return a function that turns questions into answers.

    Args:
        model: Folder, URL, Hub id or "minilm", from which each worker loads the model.
        options: Options for all questions; None in them means the model's own. Passages of evidence come without their
            sentences.
        precision: See `infer.open_engine`.
        engine: "auto", "keras", "openvino" or "onnx". Each worker uses as many cores as its environment variable
            QA_FAST_PROCESSORS says, or all cores of its machine.

    Returns:
        A function for `mapInArrow` on a frame with the columns id, question and context. Its rows have the schema
        `ANSWERS`, one row for each question: answers, best first, or none and the reason of the rejection.

    Examples:
        >>> answer = answer_in_arrow("s3://models/mine", AnswerOptions(top_k=3), engine="onnx", precision="float32")
        >>> questions.mapInArrow(answer, ANSWERS).write.parquet("answers")
    """
    chosen = options or AnswerOptions()
    # Spark's processes may have another working directory.
    model = str(Path(model).absolute()) if Path(model).is_dir() else model

    def answers(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        answerer = _answerer(model, precision, engine)
        for batch in batches:
            missing = [name for name in ("id", "question", "context") if name not in batch.schema.names]
            if missing:
                raise UserError(
                    "a frame of questions must have the columns id, question and context; missing "
                    f"{', '.join(missing)}, found {', '.join(batch.schema.names)}: rename its columns"
                )
            rows = batch.select(["id", "question", "context"]).to_pylist()
            results = answerer.answer_pairs([(row["question"], row["context"]) for row in rows], chosen)
            answered: list[dict[str, Any]] = []
            for row, result in zip(rows, results, strict=True):
                refused = isinstance(result, str)
                made = {"answers": [] if refused else result, "rejected": result if refused else None}
                answered.append({"id": _text(row["id"])} | made)
            yield pa.RecordBatch.from_pylist(answered, _ANSWERS)

    return answers


def _text(value: Any) -> str | None:
    """Return an id as text; bytes are UTF-8, as in featurizing."""
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@lru_cache(maxsize=1)
def _answerer(model: str, precision: str, engine: str) -> Answerer:
    from qa_fast.answer.answerer import Answerer

    return Answerer.from_pretrained(model, precision, engine)
