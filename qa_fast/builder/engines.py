"""Who makes the shards of blocks: this machine's threads (`local`), or Ray's actors (`ray_data`).

An engine is a function of jobs, each a block and the rows to leave out of it, to what became of each, in any order. It
decides nothing about the bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qa_fast.schema import Int64s
from qa_fast.shards.journal import BlockFacts
from qa_fast.sources.pieces import Block

LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)

Job = tuple[Block, Int64s | None]
Engine = Callable[[Iterator[Job]], Iterator[tuple[Block, BlockFacts]]]
