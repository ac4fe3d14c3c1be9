"""The input of `qa-fast show`: a source of examples, or a folder of shards, with its source if that is available.

Shards of train hold tokens and labels without texts. The texts are read from the source again if it exists and still
has the checksum that the index names. Evaluation splits hold their texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from qa_fast.buffers import one_chunk
from qa_fast.errors import UserError
from qa_fast.options import flag_of
from qa_fast.raw import CONTEXT_TYPE, EXAMPLES, SplitTable
from qa_fast.schema import FeatureConfig
from qa_fast.shards import INDEX, TRAIN, Shards, open_shards
from qa_fast.shards.summary import train_first
from qa_fast.sources import resolve_model, resolve_source
from qa_fast.sources.documents import VALIDATION, divide
from qa_fast.sources.held import IN_MEMORY
from qa_fast.store import is_file, local_path

if TYPE_CHECKING:
    from qa_fast.encode import TextEncoder
    from qa_fast.sources import Source

Say = Callable[[str], None]
# Examples of an evaluation split in one table.
_TABLE_ROWS = 8192


@dataclass(frozen=True)
class ShowSource:
    """A source of examples or a folder of shards.

    Attributes:
        name: Name as the user gave it.
        config: Sizes of windows and kind of labels.
        model: Name of the model whose tokenizer is used.
        splits: Names of the splits to show, in order.
        named: The source that the name means; None if it means shards.
        shards: The shards that the name means; None if it means a source.
        say: Called with a line about each slow step.
    """

    name: str
    config: FeatureConfig
    model: str
    splits: list[str]
    named: Source | None
    shards: Shards | None
    say: Say

    @cached_property
    def encoder(self) -> TextEncoder:
        """The encoder of the model's tokenizer.

        Raises:
            UserError: The model does not exist, or the shards were made with another tokenizer.
        """
        from qa_fast.encode import load_encoder
        from qa_fast.shards.compatibility import model_of

        find = resolve_model if self.shards is None else partial(model_of, self.shards)
        encoder = load_encoder(find(self.model, self.say, weights=False), say=self.say)
        if self.shards and self.shards.manifest["model"]["tokenizer_hash"] != encoder.tokenizer_hash:
            raise UserError(
                f"--model must have the tokenizer that {self.name} was made with; received {self.model}, which has "
                "another: name the model that featurize used"
            )
        return encoder

    @property
    def source(self) -> Source | None:
        """The source of examples. For shards it is opened and compared with the index at the first use."""
        return self._source_or_reason[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user, in sentences; complete once everything was read."""
        reason = self._source_or_reason[1] if "_source_or_reason" in vars(self) else ""
        if not reason:
            return ()
        return (f"Shards of train hold no texts, and {reason}. Texts of train are decoded from its tokens.",)

    @cached_property
    def _source_or_reason(self) -> tuple[Source | None, str]:
        """The source, or None and why it is not available."""
        if self.shards is None or TRAIN not in self.splits:
            return self.named, ""
        recorded, share = self.shards.manifest["source"], self.shards.manifest["decided_by"].get("validation_share")
        if recorded.get("origin") == IN_MEMORY:
            return None, "their source was in memory"
        names = [name for name in self.shards.names if not (share and name == VALIDATION)]
        try:
            source = resolve_source(recorded["name"], recorded["columns"], names, self.say)
            if source.describe()["sha256"] == recorded["sha256"]:
                return divide(source, share) if share else source, ""
            return None, f"their source {recorded['name']} has changed since"
        except UserError as error:
            self.say(str(error))
            return None, f"their source {recorded['name']} cannot be found"

    @property
    def origin(self) -> str:
        """The origin of the examples, in words."""
        if self.named is not None:
            return self.named.origin
        assert self.shards is not None
        return str(self.shards.manifest["source"].get("origin", "unknown"))

    def has_texts(self, split: str) -> bool:
        """Return whether the questions and contexts of a split are available."""
        return (self.shards is not None and split != TRAIN) or self.source is not None

    def tables(self, split: str) -> Iterator[SplitTable]:
        """Yield the raw examples of a split in tables; nothing if its texts are not available."""
        if self.shards is not None and split != TRAIN:
            yield from _evaluation_tables(self.shards, split)
        elif self.source is not None:
            limit = self.shards.manifest["decided_by"].get("max_examples") if self.shards is not None else None
            yield from replace(self.source, splits={split: self.source.splits[split]}).tables(limit)


def open_show_source(
    name: str,
    model: str | None = None,
    max_length: int | None = None,
    doc_stride: int | None = None,
    labels: str | None = None,
    columns: dict[str, str] | None = None,
    splits: list[str] | None = None,
    say: Say = lambda _: None,
) -> ShowSource:
    """Open what a name means: a folder with an index is shards, everything else is a source.

    Args:
        name: A folder of shards, "squad", a local file or folder, or a Hub dataset id.
        model: Model whose tokenizer is used. None, here and for the next three, means the value that the shards were
            made with, or the default of featurize.
        max_length: Longest feature in tokens.
        doc_stride: Overlap of neighbouring windows in tokens.
        labels: "exact" or "reference".
        columns: Column names of the source: ours -> theirs.
        splits: Show only these splits.
        say: Called with a line about each slow step.

    Raises:
        UserError: The source does not exist, or an option is not valid or differs from what the shards were made with.
    """
    options = {"max_length": max_length, "doc_stride": doc_stride, "labels": labels}
    overrides: dict[str, Any] = {field: value for field, value in options.items() if value is not None}
    folder = local_path(name)
    if not is_file(folder / INDEX):
        config = FeatureConfig(**overrides)
        config.check()
        source = resolve_source(name, columns, splits, say)
        return ShowSource(name, config, model or "minilm", train_first(source.splits), source, None, say)
    shards = open_shards(folder)
    recorded = shards.manifest["config"]
    for field, value in overrides.items():
        if recorded.get(field) != value:
            raise UserError(
                f"{flag_of(field)} must be {recorded.get(field)}, which {name} was made with; received {value}: leave "
                "it out, or name the source instead of the shards"
            )
    if columns:
        raise UserError(f"--columns is for sources; received it with the shards {name}: leave it out")
    for split in splits or ():
        if split not in shards.names:
            raise UserError(
                f"--split must be one of {', '.join(train_first(shards.names))} for {name}; received {split}"
            )
    wanted = train_first(split for split in shards.names if not splits or split in splits)
    model = model or shards.manifest["model"]["name"]
    return ShowSource(name, FeatureConfig(**recorded), model, wanted, None, shards, say)


def _evaluation_tables(shards: Shards, split: str) -> Iterator[SplitTable]:
    """Yield the examples of an evaluation split in tables as a source yields them."""
    opened = shards.split(split)
    if opened.examples is None or opened.contexts is None:
        raise UserError(f"{Path(shards.folder) / split} must hold examples and contexts: featurize again")
    contexts = opened.contexts["context"]
    for begin in range(0, opened.examples.num_rows, _TABLE_ROWS):
        rows = opened.examples.slice(begin, _TABLE_ROWS).combine_chunks()
        used, index = np.unique(rows["context_index"].to_numpy(), return_inverse=True)
        texts = one_chunk(contexts.take(pa.array(used)))
        column = pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), texts).cast(CONTEXT_TYPE)
        columns = [rows["id"], rows["question"], column, rows["answers"]]
        yield SplitTable(split, pa.table(columns, names=EXAMPLES.names).cast(EXAMPLES), [])
