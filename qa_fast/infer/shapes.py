"""The batches of the Keras engine, as pure functions of the features' lengths.

`Fitted` chooses few widths that pad a data set least, since each shape may be compiled. `Fixed` has fixed widths, for a
process that lives long: with few shapes, compiling pays. On a CPU, compiled parts take 80 microseconds for a token of
MiniLM, plain TensorFlow 130.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qa_fast.batches import Plan, bucket_widths, prediction_plan
from qa_fast.schema import Features, Int32s, Int64s, Ragged

# From this number of batches on, compiling pays on a GPU.
MANY_BATCHES = 48
# From this number of batches on, loading our kernels pays, which takes half a second.
SOME_BATCHES = 8
# In tokens; most paragraphs with their question have 100 to 250 tokens, a window of a long document 384.
WIDTHS = (64, 128, 160, 192, 256, 384)
# The least rows of a batch with recurring shapes: an accelerator computes fewer in hardly less time.
RECURRING_ROWS = 32

# How TensorFlow runs batches: operation by operation; with our kernels (CPU); or compiled by XLA for each shape (GPU).
Effort = Literal["plain", "kernels", "compiled"]


@dataclass(frozen=True)
class Fitted:
    """Shapes chosen for the given features.

    Attributes:
        batch_tokens: Largest number of padded tokens in a batch.
        longest: Longest input of the model in tokens.
        recurring: Whether widths and numbers of rows are the same few for any features. Otherwise the widths are
            fitted to the features, and each call may compile others.
    """

    batch_tokens: int
    longest: int
    recurring: bool = False

    def plan(self, lengths: Int32s) -> Plan:
        """Return batches for features of these lengths, int32[F]; rows of -1 fill a batch up."""
        if self.recurring:
            return prediction_plan(lengths, self.batch_tokens, _widths_up_to(self.longest), RECURRING_ROWS)
        return prediction_plan(lengths, self.batch_tokens, np.minimum(bucket_widths(lengths), self.longest))

    def effort(self, batches: int) -> Effort:
        """Return the effort that pays for this number of batches."""
        return "compiled" if batches >= MANY_BATCHES else "kernels" if batches >= SOME_BATCHES else "plain"


@dataclass(frozen=True)
class Fixed:
    """Shapes known in advance.

    Attributes:
        batch_tokens: Largest number of padded tokens in a batch.
        longest: Longest input of the model in tokens.
        most_rows: Largest number of rows in a batch if shapes are compiled; None if they are not.
    """

    batch_tokens: int
    longest: int
    most_rows: int | None

    @property
    def widths(self) -> Int32s:
        """Return the widths, int32, increasing; the last is the model's longest input."""
        return _widths_up_to(self.longest)

    def plan(self, lengths: Int32s) -> Plan:
        """Return batches for features of these lengths, int32[F], without filled-up rows."""
        rows, widths = [], []
        bucket = np.searchsorted(self.widths, lengths)
        for index, width in enumerate(self.widths.tolist()):
            for part in self._parts(np.flatnonzero(bucket == index), width):
                rows.append(part)
                widths.append(width)
        return Plan(rows, np.array(widths, np.int32))

    def effort(self, batches: int) -> Effort:
        """Return the effort for any number of batches."""
        return "compiled" if self.most_rows is not None else "plain"

    def usual(self) -> Iterator[tuple[int, int]]:
        """Yield (rows, width) of every possible batch of windows up to 384 tokens; longer ones are rare."""
        for width in self.widths[self.widths <= WIDTHS[-1]].tolist():
            for power in range(self._most(width).bit_length() if self.most_rows is not None else 1):
                yield 1 << power, width

    def _most(self, width: int) -> int:
        most = max(1, self.batch_tokens // width)
        return most if self.most_rows is None else min(self.most_rows, 1 << most.bit_length() - 1)

    def _parts(self, rows: Int64s, width: int) -> Iterator[Int64s]:
        """Divide rows into batches; if shapes are compiled, 13 rows become 8 + 4 + 1, which needs no padding."""
        most = self._most(width)
        while len(rows):
            size = min(most, len(rows))
            if self.most_rows is not None:
                size = 1 << size.bit_length() - 1
            yield rows[:size]
            rows = rows[size:]


def _widths_up_to(longest: int) -> Int32s:
    return np.array([width for width in WIDTHS if width < longest] + [longest], np.int32)


def blank(rows: int, width: int) -> Features:
    """Return artificial features of `width` padding tokens each."""
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
