"""Raw data sets: splits of examples with access to rows, before any tokenizer is used.

The rows are those that `featurize` reads, with its columns and in its order, unchecked. `rejected` lists the rows that
it leaves out with every tokenizer, and why. Rows stay in Arrow, with each document once, so all of SQuAD takes tens of
megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from numbers import Integral, Real
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.errors import UserError, shown
from qa_fast.progress import on_stderr
from qa_fast.raw import EXAMPLES, Reject
from qa_fast.sources import documents, resolve_source


class Example(dict[str, Any]):
    """One example; a notebook shows it with the answer marked in the document."""

    def __init__(self, row: dict[str, Any], split: str) -> None:
        super().__init__(row)
        self._split = split

    def _repr_html_(self) -> str:
        from qa_fast.show.notebook import example_html

        return example_html(self, self._split)


class Examples(Sequence[dict[str, Any]]):
    """The examples of one split.

    Attributes:
        name: "train", "validation", ...
        table: Columns id, question, context (each document stored once) and answers.
        unreadable: Rejects for rows of the source that are not in `table`, since they are no examples.

    Examples:
        >>> examples = load("squad")["validation"]
        >>> examples[0]["question"]
        >>> examples[:100].to_pandas()
    """

    def __init__(self, name: str, table: pa.Table, unreadable: Sequence[Reject] = ()) -> None:
        self.name, self.table, self.unreadable = name, table, tuple(unreadable)

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, row: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, row: slice) -> Examples: ...

    @overload
    def __getitem__(self, row: str) -> list[Any]: ...

    def __getitem__(self, row: int | slice | str) -> dict[str, Any] | Examples | list[Any]:
        """Return one example as a dict, with a slice several as `Examples`, or with a column's name its values.

        Returns:
            {"id", "question", "context", "answers": {"text": [...], "answer_start": [...]}}; starts count characters.

        Raises:
            UserError: There is no such column, or it is no number of a row.
        """
        if isinstance(row, str) and row in self.table.column_names:
            return self.table[row].to_pylist()
        if isinstance(row, slice):
            return self.select(range(*row.indices(len(self))))
        if not isinstance(row, Integral):
            raise UserError(
                f"a row must be a number, a slice or one of the columns {', '.join(self.table.column_names)}; received "
                f"{shown(row)}"
            )
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.name} has {len(self):,} examples; received row {row}")
        return Example(self.table.slice(row % len(self), 1).to_pylist()[0], self.name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.table.to_batches(max_chunksize=1024):
            yield from (Example(row, self.name) for row in batch.to_pylist())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self):,} examples over {self._documents:,} documents)"

    def _repr_html_(self) -> str:
        from qa_fast.show.notebook import split_html

        return split_html(self.name, self.table)

    def select(self, rows: Iterable[int]) -> Examples:
        """Return some examples, in the order of their row numbers as given.

        Args:
            rows: Row numbers from 0; negative ones count from the end.

        Raises:
            IndexError: There is no such row.
            UserError: They are no whole numbers, such as a mask of booleans.

        Examples:
            >>> examples.select([4, 2, -1])
        """
        listed = list(rows)
        for row in listed:
            if isinstance(row, bool | np.bool_) or not isinstance(row, Integral):
                raise UserError(
                    f"rows must be whole numbers; received {shown(row)}: for a mask, give numpy.flatnonzero(mask)"
                )
        chosen = np.array(listed, np.int64)
        outside = chosen[(chosen < -len(self)) | (chosen >= len(self))]
        if len(outside):
            raise IndexError(f"{self.name} has {len(self):,} examples; received row {outside[0]}")
        return Examples(self.name, self.table.take(pa.array(np.where(chosen < 0, chosen + len(self), chosen))))

    def train_test_split(self, test_size: float = 0.2) -> dict[str, Examples]:
        """Divide the examples by document: all questions about a text are on the same side, in their order.

        Texts of one article are different documents here; `featurize` with `validation_share` keeps these together,
        too. The division depends on the texts alone, so it is the same each time.

        Args:
            test_size: Share of the examples for "test", above 0 and below 1, as nearly as whole documents allow.

        Returns:
            {"train": ..., "test": ...}

        Raises:
            UserError: The share is out of bounds, or there are fewer than two documents.

        Examples:
            >>> parts = load("my.json")["train"].train_test_split(0.2)
            >>> len(parts["train"]), len(parts["test"])
        """
        if not (isinstance(test_size, Real) and 0 < test_size < 1):
            raise UserError(f"test_size must be above 0 and below 1; received {test_size!r}: try 0.2")
        is_test = documents.rows_held_out(self.table["context"], test_size)
        sides = {"train": self.select(np.flatnonzero(~is_test)), "test": self.select(np.flatnonzero(is_test))}
        for name, side in sides.items():
            side.name = name
        return sides

    def find(self, example_id: str) -> dict[str, Any]:
        """Return the example with an id.

        Raises:
            UserError: There is no such example.
        """
        row = pc.index(self.table["id"], pa.scalar(str(example_id), pa.string())).as_py()
        if row < 0:
            raise UserError(f"an id must be one of the split's; {self.name} has no {example_id!r}")
        return self[row]

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Offer the rows to whatever reads Arrow streams, such as `polars.DataFrame(examples)`."""
        return self.table.__arrow_c_stream__(requested_schema)

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table; `context` is a dictionary column, each document stored once."""
        return self.table

    def to_pandas(self) -> Any:
        """Return the rows as a pandas DataFrame.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise UserError("to_pandas needs pandas, which is not installed: pip install pandas") from None
        frame = self.table.to_pandas()
        frame["context"] = frame["context"].astype(object)  # strings instead of a categorical column
        return frame

    @cached_property
    def rejected(self) -> list[Reject]:
        """The rows that no tokenizer could use, with the reasons; computed when first accessed.

        `featurize` leaves these out, and also questions that are too long for a window, which depends on the tokenizer.
        """
        from qa_fast.features.examples import IdSet, check_examples
        from qa_fast.shards.format import TRAIN

        ids, rejects = IdSet(), list(self.unreadable)
        for batch in self.table.to_batches():
            part = pa.Table.from_batches([batch])
            checked = check_examples(part, ids.add(part["id"].combine_chunks()), scored=self.name != TRAIN)
            rejects += checked.rejects.values()
        return rejects

    @property
    def _documents(self) -> int:
        chunks = self.table["context"].unify_dictionaries().chunks
        return pc.count_distinct(pa.chunked_array([chunk.indices for chunk in chunks], pa.int32())).as_py()


class Dataset(Mapping[str, Examples]):
    """The splits of a data set by name.

    Attributes:
        source: The name that was passed to `load`.
        origin: Where the files came from, in words.
        skipped: Name of each file of the folder that is not read -> the reason.

    Examples:
        >>> dataset = load("squad")
        >>> dataset["train"][0]["question"]
    """

    def __init__(
        self, source: str, origin: str, splits: dict[str, Examples], skipped: Mapping[str, str] | None = None
    ) -> None:
        self.source, self.origin, self._splits, self.skipped = source, origin, splits, dict(skipped or {})

    def __getitem__(self, name: str) -> Examples:
        """Return a split.

        Raises:
            UserError: There is no split of that name.
        """
        if name not in self._splits:
            raise UserError(f"the split must be one of {', '.join(self)}; received {name!r} for {self.source}")
        return self._splits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a split, or `default` if there is none of that name."""
        return self._splits.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._splits

    def __repr__(self) -> str:
        listed = "".join(f"\n  {name}: {len(split):,} examples" for name, split in self.items())
        return f"Dataset({self.source!r}, {self.origin}){listed}"

    def _repr_html_(self) -> str:
        from qa_fast.show.notebook import split_html

        return "".join(split_html(f"{self.source} · {name}", split.table) for name, split in self.items())


def load(
    source: Any = "squad",
    *,
    columns: dict[str, str] | None = None,
    splits: str | Sequence[str] | None = None,
    max_examples: int | None = None,
    say: Callable[[str], None] = on_stderr,
) -> Dataset:
    """Read a raw data set.

    Args:
        source: "squad", a local file or folder, a URL, or a Hub dataset id: any SOURCE of `qa-fast featurize`; or a
            table, or a dict from split to table, as for `featurize`.
        columns: Our column names -> those of the data, where they differ.
        splits: The split or splits to read; None reads all. For a single file or table: the name to give its split.
        max_examples: Number of examples to read from the start of each split; None reads all.
        say: Called with messages about where the files come from.

    Raises:
        UserError: The source does not exist, or is no question-answering data.

    Examples:
        >>> dataset = load("squad", splits="validation", max_examples=100)
        >>> dataset["validation"][0]["context"]
    """
    if max_examples is not None and max_examples < 1:
        raise UserError(f"max_examples must be at least 1; received {max_examples}: leave it out for all")
    files = resolve_source(source, columns, splits, say)
    tables: dict[str, list[pa.Table]] = {split: [] for split in files.splits}
    unreadable: dict[str, list[Reject]] = {split: [] for split in files.splits}
    for part in files.tables(max_examples):
        tables[part.split].append(part.rows)
        unreadable[part.split] += part.unreadable
    for split, rejects in unreadable.items():
        if rejects:
            say(
                f"{split}: {len(rejects):,} rows are no examples and were left out, the first "
                f"{rejects[0].id or 'without id'}: {rejects[0].reason}; all are in its attribute unreadable"
            )
    return Dataset(
        files.name,
        files.origin,
        {
            split: Examples(split, pa.concat_tables(parts) if parts else EXAMPLES.empty_table(), unreadable[split])
            for split, parts in tables.items()
        },
        files.skipped,
    )
