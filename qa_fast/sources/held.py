"""Tables of examples that are in memory, as the pieces of a source hold them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from qa_fast.raw import Reject
from qa_fast.sources.rows import Batch

IN_MEMORY = "tables in memory"


class HeldTables(list[Batch]):
    """Tables of examples, each with its rejects."""

    def packed(self) -> list[tuple[bytes, str]]:
        """Return the tables and their rejects as bytes and text, which depend on nothing else."""
        out = []
        for table, rejects in self:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            out.append((bytes(sink.getvalue()), json.dumps([(reject.id, reject.reason) for reject in rejects])))
        return out

    @classmethod
    def unpacked(cls, packed: list[tuple[bytes, str]]) -> HeldTables:
        """Return what `packed` was made from."""
        return cls(
            (pa.ipc.open_stream(table).read_all(), [Reject(*reject) for reject in json.loads(rejects)])
            for table, rejects in packed
        )

    def __reduce__(self) -> Any:
        # A slice of a table pickles all of the table.
        return HeldTables.unpacked, (self.packed(),)
