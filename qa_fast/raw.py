"""Raw examples as every source gives them: Arrow tables of one schema, and rejects for rows that could not enter."""

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
    """An example that was left out, or that no feature could be cut from.

    Attributes:
        id: The example's id.
        reason: The rule it broke and what it held.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class SplitTable:
    """Some of a split's rows.

    Attributes:
        split: "train", "validation", ...
        rows: Columns of `EXAMPLES`.
        unreadable: Rows beside these that are no examples at all.
    """

    split: str
    rows: pa.Table
    unreadable: list[Reject]
