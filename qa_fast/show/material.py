"""What `qa-fast show` looks at: a source of examples, or a folder of shards with what can be had of its source.

Shards of train hold tokens and labels, no texts; those are read from the source again, if it is there and still has the
checksum that the index names. Splits for evaluation have their texts beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from qa_fast.buffers import one_chunk
from qa_fast.errors import UserError
from qa_fast.raw import CONTEXT_TYPE, EXAMPLES, SplitTable
from qa_fast.schema import LABEL_MODES, FeatureConfig
from qa_fast.shards import INDEX, TRAIN, Shards, open_shards
from qa_fast.show.wording import train_first
from qa_fast.sources import resolve_model, resolve_source
from qa_fast.store import is_file, local_path

if TYPE_CHECKING:
    from qa_fast.encode import TextEncoder
    from qa_fast.sources import Source

Say = Callable[[str], None]
# Examples of an evaluation split that are made into a table at a time.
_ROWS = 8192


@dataclass(frozen=True)
class Material:
    """Something to look at.

    Attributes:
        name: As the user gave it.
        config: Window sizes and kind of labels.
        model: Whose tokenizer.
        splits: What to look at, in order.
        named: The source that was named; None where shards were.
        shards: None where a source was named.
        max_examples: Of each split of the source.
        say: Told in a line what is done.
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
        """The tokenizer.

        Raises:
            UserError: None of that name, or another than the shards were made with.
        """
        from qa_fast.encode import load_encoder

        encoder = load_encoder(resolve_model(self.model, self.say, weights=False), say=self.say)
        made_with = self.shards and self.shards.manifest["model"]["tokenizer_hash"]
        if made_with not in (None, encoder.tokenizer_hash):
            raise UserError(
                f"--model must have the tokenizer that {self.name} was made with; received {self.model}, which has "
                "another: name the model that was featurized with"
            )
        return encoder

    @cached_property
    def source(self) -> Source | None:
        """The examples; of shards their source if it is as it was, which is found out when it is first asked for."""
        return self._source[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, in sentences; complete once all was read."""
        why = self._source[1] if "_source" in vars(self) else ""
        if not why:
            return ()
        return (f"Shards of train hold no texts, and {why}: what is shown of train is what its tokens decode to.",)

    @cached_property
    def _source(self) -> tuple[Source | None, str]:
        """The source, or None and why there is none."""
        if self.shards is None or TRAIN not in self.splits:
            return self.named, ""
        return _source_of(self.shards, self.say)

    @property
    def origin(self) -> str:
        """Where the examples came from, in words."""
        if self.named is not None:
            return self.named.origin
        assert self.shards is not None
        return str(self.shards.manifest["source"].get("origin", "unknown"))

    def has_texts(self, split: str) -> bool:
        """Whether the split's questions and contexts can be had."""
        return (self.shards is not None and split != TRAIN) or self.source is not None

    def tables(self, split: str) -> Iterator[SplitTable]:
        """The split's raw examples, table by table; none where its texts cannot be had."""
        if self.shards is not None and split != TRAIN:
            yield from _evaluation_tables(self.shards, split)
        elif self.source is not None:
            limit = self.shards.manifest["decided_by"].get("max_examples") if self.shards is not None else None
            yield from replace(self.source, splits={split: self.source.splits[split]}).tables(limit)


def open_material(
    name: str,
    model: str | None = None,
    max_length: int | None = None,
    doc_stride: int | None = None,
    labels: str | None = None,
    columns: dict[str, str] | None = None,
    splits: list[str] | None = None,
    say: Say = lambda _: None,
) -> Material:
    """Find what a name means: a folder with an index is shards, all else a source.

    Args:
        name: A folder of shards, "squad", a local file or folder, or a Hub dataset id.
        model: Whose tokenizer; None takes the shards', or "minilm", as for the other options.
        max_length: Longest feature in tokens.
        doc_stride: Overlap of windows in tokens.
        labels: Which labels training sees.
        columns: Ours -> theirs.
        splits: Only these.
        say: Told in a line what is done.

    Raises:
        UserError: Nothing there, options that cannot be, or others than the shards were made with.
    """
    given = {"max_length": max_length, "doc_stride": doc_stride, "labels": labels}
    given = {key: value for key, value in given.items() if value is not None}
    folder = local_path(name)
    if is_file(folder / INDEX):
        return _shards(name, open_shards(folder), model, given, columns, splits, say)
    config = FeatureConfig(**given)  # type: ignore[arg-type]
    if config.labels not in LABEL_MODES:
        raise UserError(f"--labels must be one of {', '.join(LABEL_MODES)}; received {config.labels!r}: choose one")
    if not 0 <= config.doc_stride < config.max_length:
        raise UserError(
            "--doc-stride (the overlap of windows) must be from 0 to less than --max-length; received "
            f"{config.doc_stride} and {config.max_length}: lower it or raise --max-length"
        )
    source = resolve_source(name, columns, splits, say)
    return Material(name, config, model or "minilm", train_first(source.splits), source, None, say)


def _shards(
    name: str,
    shards: Shards,
    model: str | None,
    given: dict[str, Any],
    columns: dict[str, str] | None,
    splits: list[str] | None,
    say: Say,
) -> Material:
    made_with = shards.manifest["config"]
    for option, value in given.items():
        if made_with.get(option) != value:
            raise UserError(
                f"--{option.replace('_', '-')} is what {name} was made with, {made_with.get(option)}; received "
                f"{value}: leave it out, or name the source to see it otherwise"
            )
    if columns:
        raise UserError(f"--columns is for a source; received it with the shards {name}: leave it out")
    for split in splits or ():
        if split not in shards.names:
            raise UserError(
                f"--split must name splits that {name} has; received {split}, found {', '.join(shards.names)}"
            )
    wanted = train_first(split for split in shards.names if not splits or split in splits)
    config = FeatureConfig(**made_with)
    return Material(name, config, model or shards.manifest["model"]["name"], wanted, None, shards, say)


def _source_of(shards: Shards, say: Say) -> tuple[Source | None, str]:
    """The source that shards were made from, unchanged; or None and why it cannot be had."""
    about = shards.manifest["source"]
    try:
        source = resolve_source(about["name"], about["columns"], shards.names, say)
        if source.describe()["sha256"] == about["sha256"]:
            return source, ""
        return None, f"their source {about['name']} has changed since"
    except UserError as error:
        say(str(error))
        return None, f"their source {about['name']} is not to be found"


def _evaluation_tables(shards: Shards, split: str) -> Iterator[SplitTable]:
    """An evaluation split's examples as the tables that a source gives."""
    opened = shards.split(split)
    if opened.examples is None or opened.contexts is None:
        raise UserError(f"{Path(shards.folder) / split} must hold examples and contexts: featurize again")
    contexts = opened.contexts["context"]
    for begin in range(0, opened.examples.num_rows, _ROWS):
        rows = opened.examples.slice(begin, _ROWS).combine_chunks()
        index = rows["context_index"].to_numpy()
        used, inverse = np.unique(index, return_inverse=True)
        texts = one_chunk(contexts.take(pa.array(used)))
        column = pa.DictionaryArray.from_arrays(pa.array(inverse.astype(np.int32)), texts).cast(CONTEXT_TYPE)
        columns = [rows["id"], rows["question"], column, rows["answers"]]
        yield SplitTable(split, pa.table(columns, names=EXAMPLES.names).cast(EXAMPLES), [])
