"""Columns, dtypes and options: each defined once, here.

Letters of dimensions, used in every docstring of the package:

    E examples (question-document pairs)    D distinct documents (contexts)
    F features (one window of an example)   T tokens
    L feature length in tokens              B batch size
    H hidden size                           U distinct texts

Rows of unequal length have one layout everywhere: flat `values` and `offsets` of n + 1. It is Arrow's own, so columns
move between numpy, Numba and Arrow without a copy and without a Python object for each row.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError
from qa_fast.options import check_values, option

# Tokens of the longest answer, unless the user or the model's folder says otherwise.
DEFAULT_MAX_ANSWER_LENGTH = 30

Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

LABEL_MODES = ("exact", "reference")
ENCODE_MODES = ("auto", "direct", "words")
# What computes logits for answering and scoring, and in which precision. Training has a list of its own.
ENGINES = ("auto", "keras", "openvino", "onnx")
ENGINE_PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")

_FEATURES = "Features"


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length in one flat array.

    Attributes:
        values: Flat array of all rows, one after the other.
        offsets: int64[n + 1], non-decreasing; row i is `values[offsets[i]:offsets[i + 1]]`.
    """

    values: npt.NDArray[Any]
    offsets: Int64s

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Int64s:
        """int64[n]: the number of values in each row."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Features:
    """F model inputs, unpadded, in example order and within an example in window order.

    Attributes:
        input_ids: int32 Ragged[F], special tokens included.
        token_type_ids: int8 Ragged[F] over the same offsets, or None if the model has none.
        start_positions: int32[F], position within the feature of the answer's first token.
        end_positions: int32[F], position within the feature of the answer's last token (inclusive).
        example_index: int32[F], row of the example that the feature was cut from.
        window_index: int32[F], 0 for an example's first window.
        context_start: int32[F], position within the feature of its first context token.
        context_end: int32[F], one past the position of its last context token.
        document_token_start: int32[F], index in the document's tokens of the feature's first context token, so
            that position p of the feature is token `p - context_start + document_token_start` of the document.
        further: int32 Ragged[F], start and end in turn of the other labels of each feature, which further answers of
            its question have; None if no feature has any.
    """

    input_ids: Ragged
    token_type_ids: Ragged | None
    start_positions: Int32s
    end_positions: Int32s
    example_index: Int32s
    window_index: Int32s
    context_start: Int32s
    context_end: Int32s
    document_token_start: Int32s
    further: Ragged | None = None

    def __len__(self) -> int:
        return len(self.start_positions)

    def part(self, begin: int, end: int) -> Features:
        """Return the features [begin, end), without a copy; their rows count from 0."""
        columns: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            column = getattr(self, field.name)
            if isinstance(column, Ragged):
                columns[field.name] = Ragged(column.values, column.offsets[begin : end + 1])
            else:
                columns[field.name] = column if column is None else column[begin:end]
        return Features(**columns)


@dataclass(frozen=True)
class FeatureConfig:
    """The options that, with the examples and the tokenizer, decide the content of a shard.

    Each field declares its meaning and bounds; see `options`. `doc_stride` is the overlap of two neighbouring windows
    in context tokens, as in tokenizers, and not the step from one window to the next.

    Examples:
        >>> FeatureConfig(max_length=512, doc_stride=128)
    """

    max_length: int = option(
        384, "Longest model input in tokens, including the question and special tokens.", group=_FEATURES, least=1
    )
    doc_stride: int = option(
        128, "Number of tokens that neighbouring windows share (the overlap, not the step).", group=_FEATURES, least=0
    )
    labels: str = option(
        "exact",
        "How answers become token labels. 'exact' labels the tokens that overlap the answer; 'reference' reproduces "
        "the Hugging Face tutorial, including its errors.",
        group=_FEATURES,
        choices=LABEL_MODES,
    )
    drop_impossible: bool = option(
        False,
        "Leave out training windows that do not contain the answer to their question. Unanswerable questions are kept.",
        group=_FEATURES,
    )

    def check(self) -> None:
        """Refuse options that cannot be used with any tokenizer.

        Raises:
            UserError: A value is out of bounds, or the overlap is not smaller than the window.
        """
        check_values(self)
        if self.doc_stride >= self.max_length:
            raise UserError(
                "--doc-stride (the overlap of windows) must be smaller than --max-length; "
                f"received {self.doc_stride} and {self.max_length}: lower it or raise --max-length"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


# Columns by name, with type and meaning. Feature columns are in `<split>/data-*.arrow`; the evaluation columns are
# written for every split except train. Units are tokens unless a name says otherwise.
FEATURE_COLUMNS: dict[str, str] = {
    "input_ids": "list<int32>, [L]: question and window with special tokens, unpadded",
    "token_type_ids": "list<int8>, [L]: 0 question, 1 context; only if the model has them",
    "start_positions": "int32: position of the answer's first token, or of CLS",
    "end_positions": "int32: position of the answer's last token (inclusive), or of CLS",
    "example_id": "string: id of the example",
    "window_index": "int32: 0 for the example's first window",
}
EVALUATION_COLUMNS: dict[str, str] = {
    "context_start": "int32: position in the feature of its first context token",
    "context_end": "int32: one past the position of its last context token",
    "document_token_start": "int32: index in the document's tokens of the feature's first context token",
}
# Further labels of train, in files of their own that exist only where a question has several distinct answers.
LABEL_COLUMNS: dict[str, str] = {
    "feature": "int64: row of the feature in the same block's data file; increasing",
    "start_position": "int32: position of the first token of a further answer",
    "end_position": "int32: position of its last token (inclusive)",
}
# Columns that scoring needs, in files of their own that state.json does not list: once for each example and document.
EXAMPLE_COLUMNS: dict[str, str] = {
    "id": "string",
    "question": "string, as given",
    "context_index": "int32: row in the same block's contexts; in an opened split, in all of them",
    "answers": "struct<text: list<string>, answer_start: list<int32>>; characters; empty if unanswerable",
    "feature_count": "int32: features of this example, which follow each other in the data files",
}
CONTEXT_COLUMNS: dict[str, str] = {
    "context": "string, as given (not stripped)",
    "token_char_start": "list<int32>: first character of each token, in the context as given",
    "token_char_end": "list<int32>: one past the last character of each token",
}


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values have equal fingerprints."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
