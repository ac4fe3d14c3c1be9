"""Raw examples as every source returns them: Arrow tables of one schema, and records of unusable and repaired rows."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

ANSWERS_TYPE = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
CONTEXT_TYPE = pa.dictionary(pa.int32(), pa.string())
EXAMPLES = pa.schema(
    [("id", pa.string()), ("question", pa.string()), ("context", CONTEXT_TYPE), ("answers", ANSWERS_TYPE)]
)


@dataclass(frozen=True)
class Reject:
    """An example that was left out because it is invalid or because no feature can be cut from it.

    Attributes:
        id: The example's id.
        reason: The rule that it broke and the value received.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class Repair:
    """An example whose first answer was not at its `answer_start`.

    Attributes:
        id: The example's id.
        cause: Why the answer was not there, one of `features.repairs`; or `UNPLACED`.
        reason: The place and text received, and those used instead.
    """

    id: str
    cause: str
    reason: str


# The cause of an example without a certain place of its answer, which is kept to be scored, without a label.
UNPLACED = "unplaced"


@dataclass(frozen=True)
class SplitTable:
    """A part of the rows of a split.

    Attributes:
        split: "train", "validation", ...
        rows: Columns of `EXAMPLES`.
        unreadable: Other rows, which are not examples at all.
    """

    split: str
    rows: pa.Table
    unreadable: list[Reject]
