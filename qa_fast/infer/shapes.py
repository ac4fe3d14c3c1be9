"""Which features go into which batch of the Keras engine: pure functions of their lengths.

`Fitted` takes the widths that pad a data set least, and few shapes, since each may be compiled. `Fixed` has its widths
in advance, for a process that lives long: with few shapes, compiling pays. On a CPU the compiled parts take 80
microseconds a token of MiniLM where plain TensorFlow takes 130.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qa_fast.batches import Plan, bucket_widths, prediction_plan
from qa_fast.schema import Features, Int32s, Int64s, Ragged

# Compiling parts pays off from here on; before, what has no kernel of ours runs as it stands.
MANY_BATCHES = 48
# Loading our kernels pays off from here on (half a second; some more the first time on a machine); before, plain
# TensorFlow answers at once.
SOME_BATCHES = 8
# In tokens; most paragraphs with their question have 100 to 250, and a window of a long document has 384.
WIDTHS = (64, 128, 160, 192, 256, 384)

# How TensorFlow runs batches: as they stand; on CPUs with our kernels, which need no compiling; or with what XLA
# compiles, too, for each shape.
Effort = Literal["plain", "kernels", "compiled"]


@dataclass(frozen=True)
class Fitted:
    """Shapes by the features at hand.

    Attributes:
        batch_tokens: Padded tokens a batch, at most.
        longest: Longest input of the model in tokens.
    """

    batch_tokens: int
    longest: int

    def plan(self, lengths: Int32s) -> Plan:
        """The batches of features of these lengths, int32[F]; -1 fills up their rows."""
        return prediction_plan(lengths, self.batch_tokens, np.minimum(bucket_widths(lengths), self.longest))

    def effort(self, batches: int) -> Effort:
        """What so many batches are worth."""
        return "compiled" if batches >= MANY_BATCHES else "kernels" if batches >= SOME_BATCHES else "plain"


@dataclass(frozen=True)
class Fixed:
    """Shapes known in advance.

    Attributes:
        batch_tokens: Padded tokens a batch, at most.
        longest: Longest input of the model in tokens.
        most_rows: Rows a batch at most, where shapes are compiled; None where they are not.
    """

    batch_tokens: int
    longest: int
    most_rows: int | None

    @property
    def widths(self) -> Int32s:
        """int32, increasing; the last is the model's longest input."""
        return np.array([width for width in WIDTHS if width < self.longest] + [self.longest], np.int32)

    def plan(self, lengths: Int32s) -> Plan:
        """The batches of features of these lengths, int32[F], without filled up rows."""
        rows, widths = [], []
        bucket = np.searchsorted(self.widths, lengths)
        for index, width in enumerate(self.widths.tolist()):
            for part in self._parts(np.flatnonzero(bucket == index), width):
                rows.append(part)
                widths.append(width)
        return Plan(rows, np.array(widths, np.int32))

    def effort(self, batches: int) -> Effort:
        """What a process that lives long is worth: all, where shapes are compiled."""
        return "compiled" if self.most_rows is not None else "plain"

    def usual(self) -> Iterator[tuple[int, int]]:
        """(rows, width) of every batch of windows up to 384 tokens; longer ones come only where they are asked for."""
        for width in self.widths[self.widths <= WIDTHS[-1]].tolist():
            for power in range(self._most(width).bit_length() if self.most_rows is not None else 1):
                yield 1 << power, width

    def _most(self, width: int) -> int:
        most = max(1, self.batch_tokens // width)
        return most if self.most_rows is None else min(self.most_rows, 1 << most.bit_length() - 1)

    def _parts(self, rows: Int64s, width: int) -> Iterator[Int64s]:
        """The rows in parts; where shapes are compiled, 13 go as 8 + 4 + 1 and not padded to 16."""
        most = self._most(width)
        while len(rows):
            size = min(most, len(rows))
            if self.most_rows is not None:
                size = 1 << size.bit_length() - 1
            yield rows[:size]
            rows = rows[size:]


def blank(rows: int, width: int) -> Features:
    """So many features of so many padding tokens."""
    tokens = rows * width
    offsets = np.arange(rows + 1, dtype=np.int64) * width
    zeros = np.zeros(rows, np.int32)
    return Features(
        input_ids=Ragged(np.zeros(tokens, np.int32), offsets),
        token_type_ids=Ragged(np.zeros(tokens, np.int8), offsets),
        start_positions=zeros,
        end_positions=zeros,
        example_index=np.arange(rows, dtype=np.int32),
        window_index=zeros,
        context_start=zeros,
        context_end=zeros + width,
        document_token_start=zeros,
    )
