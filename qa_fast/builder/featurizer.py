"""Raw examples in, features out: a recipe that pickles, for one process or for thousands.

A `Featurizer` is the tokenizer's bytes and the options, nothing else; tokenizer and kernels are loaded in the process
that first uses it. What it makes of a table depends on that table alone, so any engine may hand tables to any
worker in any order: rows carry `example_id` and `window_index`, and sorted by them they are the same. `pipeline` puts
tables through one, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from qa_fast.buffers import one_chunk
from qa_fast.errors import UserError
from qa_fast.model.folder import known_config
from qa_fast.progress import StageClock
from qa_fast.raw import Reject
from qa_fast.schema import EVALUATION_COLUMNS, FeatureConfig, Int32s, canonical_json
from qa_fast.shards.format import FORMAT_VERSION, TRAIN
from qa_fast.version import __version__

if TYPE_CHECKING:
    from qa_fast.encode import EncodedTexts, TextEncoder
    from qa_fast.features.examples import Examples
    from qa_fast.features.windows import Featurized


@dataclass
class SplitCounts:
    """What became of some examples of a split.

    Attributes:
        examples: Examples that have features.
        features: Windows.
        impossible: Features labelled at CLS.
        rejected: Examples left out.
        repaired: First answers put where their text stands.
        tokens: Tokens of all features, special ones included.
        differences: Features that `exact` and `reference` labels differ on, by cause.
    """

    examples: int = 0
    features: int = 0
    impossible: int = 0
    rejected: int = 0
    repaired: int = 0
    tokens: int = 0
    differences: dict[str, int] = field(default_factory=dict)

    def add(self, other: SplitCounts) -> None:
        """Add what became of others."""
        for name, value in vars(other).items():
            if name != "differences":
                setattr(self, name, getattr(self, name) + value)
        for cause, count in other.differences.items():
            self.differences[cause] = self.differences.get(cause, 0) + count

    def to_dict(self) -> dict[str, Any]:
        """The counts as the index holds them."""
        return {**vars(self), "differences": dict(sorted(self.differences.items()))}


@dataclass(frozen=True)
class FeaturizedTable:
    """What came of a table.

    Attributes:
        batches: Its features, `Featurizer.schema`; made as they are asked for where there are many.
        rejects: Examples left out, with the reasons.
        counts: How many of what.
        examples: The checked examples that features were cut from.
        contexts: Their encoded documents [D].
        leading_chars: int32[D], white space taken off each document before it was encoded.
        feature_counts: int32[E], features of each example.
    """

    batches: Iterable[pa.RecordBatch]
    rejects: list[Reject]
    counts: SplitCounts
    examples: Examples
    contexts: EncodedTexts
    leading_chars: Int32s
    feature_counts: Int32s


class Featurizer:
    """Turns tables of question-answering examples into tables of features.

    Args:
        model: Whose tokenizer: "minilm", a local model folder, or a Hub model id.
        config: Window sizes and kind of labels.
        split: "train" leaves out the columns that evaluation needs, and follows `config.drop_impossible`.
        encode: See `encode.load_encoder`; the features are the same.
        columns: Ours -> theirs, for tables with other column names.

    Raises:
        UserError: No usable tokenizer there, or options that do not go together.
    """

    def __init__(
        self,
        model: str | Path = "minilm",
        config: FeatureConfig | None = None,
        *,
        split: str = TRAIN,
        encode: str = "auto",
        columns: dict[str, str] | None = None,
    ) -> None:
        from qa_fast.encode import load_encoder
        from qa_fast.sources import resolve_model

        folder = resolve_model(str(model), weights=False)
        self._settle(load_encoder(folder, encode), config or FeatureConfig(), split, columns)
        check_longest(self.config, folder)

    @classmethod
    def of_encoder(cls, encoder: TextEncoder, config: FeatureConfig, split: str) -> Featurizer:
        """With a tokenizer that is loaded already.

        Raises:
            UserError: The options do not go together.
        """
        made = cls.__new__(cls)
        made._settle(encoder, config, split, None)
        return made

    def _settle(self, encoder: TextEncoder, config: FeatureConfig, split: str, columns: dict[str, str] | None) -> None:
        config.check()
        check_room(config, encoder)
        self.encoder, self.config, self.split, self.columns = encoder, config, split, dict(columns or {})

    def __call__(self, table: pa.Table) -> pa.Table:
        """The features of a table of examples.

        Args:
            table: Columns id, question, context and answers (a struct of lists, or a list of structs, of text and
                answer_start), of any Arrow types that can mean that. Ids must be there and unique, since features are
                told apart by them; a repeated one is seen within a table only.

        Returns:
            Columns of `schema`. Examples that are rejected have no rows; `featurize` tells them.

        Raises:
            UserError: A column is missing or no such data.
        """
        from qa_fast.sources.rows import column_names, normalize_table

        names = column_names(table.column_names, self.columns, "the table")
        if "id" not in names:
            raise UserError(
                f"a table to featurize must have a column id; received {', '.join(table.column_names)}: add one, or "
                "name it in columns"
            )
        rows, unreadable = normalize_table(table, names, "", 0, "the table")
        return pa.Table.from_batches(self.featurize(rows, unreadable=unreadable).batches, self.schema)

    def featurize(
        self,
        rows: pa.Table,
        repeated: np.ndarray | None = None,
        unreadable: Sequence[Reject] = (),
        clock: StageClock | None = None,
    ) -> FeaturizedTable:
        """The features of a table of raw examples, with what was rejected and counted; threads may do so at once.

        Args:
            rows: Columns of `raw.EXAMPLES`; E rows.
            repeated: bool[E], rows whose id came before; None looks within the table.
            unreadable: Rows beside these that are no examples at all.
            clock: Times the stages.
        """
        from qa_fast.features.examples import IdSet, check_examples
        from qa_fast.features.windows import BATCH_TOKENS, featurize_examples
        from qa_fast.shards.write import feature_batch

        clock = clock or StageClock()
        with clock("check"):
            if repeated is None:
                repeated = IdSet().add(one_chunk(rows["id"]))
            examples, misplaced, repaired = check_examples(rows, repeated)
        drop = self.config.drop_impossible and self.split == TRAIN
        done = featurize_examples(examples, self.encoder, self.config, drop, clock)
        ids = done.encoded.examples.ids
        laid_out = clock.each("lay out", done.batches(self.encoder))
        batches: Iterable[pa.RecordBatch] = (feature_batch(features, ids, self.split) for features in laid_out)
        if done.windows.lengths.sum(dtype=np.int64) <= BATCH_TOKENS:
            batches = list(batches)
        rejects = [*unreadable, *misplaced, *done.rejects]
        kept = done.encoded.examples
        return FeaturizedTable(
            batches=batches,
            rejects=rejects,
            counts=_counted(done, repaired, len(rejects)),
            examples=kept,
            contexts=done.encoded.contexts,
            leading_chars=done.encoded.leading_chars,
            feature_counts=np.bincount(done.windows.example_index, minlength=len(kept)).astype(np.int32),
        )

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the features: `schema.FEATURE_COLUMNS`, and but for train `schema.EVALUATION_COLUMNS`."""
        columns = [("input_ids", pa.list_(pa.int32()))]
        if self.encoder.has_token_types:
            columns.append(("token_type_ids", pa.list_(pa.int8())))
        columns += [("start_positions", pa.int32()), ("end_positions", pa.int32())]
        columns += [("example_id", pa.string()), ("window_index", pa.int32())]
        if self.split != TRAIN:
            columns += [(name, pa.int32()) for name in EVALUATION_COLUMNS]
        return pa.schema(columns)

    @property
    def decides(self) -> dict[str, Any]:
        """All that decides the features' bits besides the examples."""
        return {
            "format": FORMAT_VERSION,
            "version": __version__,
            "config": self.config.to_dict(),
            "tokenizer": self.encoder.tokenizer_hash,
            "token_types": self.encoder.has_token_types,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of `decides` and the split: equal ones make equal features of equal tables."""
        return hashlib.sha256(canonical_json(self.decides | {"split": self.split}).encode()).hexdigest()


def _counted(done: Featurized, repaired: int, rejected: int) -> SplitCounts:
    return SplitCounts(
        examples=len(done.encoded.examples),
        features=len(done.windows),
        impossible=int((done.labels.start_positions == done.windows.cls_position).sum()),
        rejected=rejected,
        repaired=repaired,
        tokens=int(done.windows.lengths.sum(dtype=np.int64)),
        differences=dict(done.labels.differences),
    )


def check_room(config: FeatureConfig, encoder: TextEncoder) -> None:
    """Refuse an overlap that leaves a window no room to move on.

    Raises:
        UserError: It is too large.
    """
    room = config.max_length - encoder.template.special_tokens
    if config.doc_stride >= room:
        raise UserError(
            f"--doc-stride (the overlap of windows) must be smaller than the room for context, at most {room} tokens "
            f"with --max-length {config.max_length}; received {config.doc_stride}: lower it or raise --max-length"
        )


def check_longest(config: FeatureConfig, folder: Path) -> None:
    """Refuse windows that the model cannot take; of a model that is not supported, only the tokenizer counts.

    Raises:
        UserError: They are longer than its longest input.
    """
    known = known_config(folder)
    if known is not None and config.max_length > known.max_length:
        raise UserError(
            f"--max-length must be at most {known.max_length}, the longest input of {folder.name}; received "
            f"{config.max_length}: lower it, or choose another --model"
        )
