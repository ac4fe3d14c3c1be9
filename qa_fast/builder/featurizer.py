"""Turns tables of raw examples into tables of features, in one process or in many.

A `Featurizer` holds the tokenizer and the options and can be pickled; kernels are loaded by the process that first uses
it. The features of a table depend on that table alone, so any engine may give tables to any worker in any order: rows
carry `example_id` and `window_index`, and sorted by these they are always the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from qa_fast.buffers import list_lengths, one_chunk
from qa_fast.errors import UserError
from qa_fast.model.folder import known_config
from qa_fast.progress import StageClock
from qa_fast.raw import EXAMPLES, UNPLACED, Reject, Repair
from qa_fast.schema import EVALUATION_COLUMNS, FeatureConfig, Int32s, Ragged, canonical_json
from qa_fast.shards.format import FORMAT_VERSION, TRAIN
from qa_fast.version import __version__

if TYPE_CHECKING:
    from qa_fast.encode import EncodedTexts, TextEncoder
    from qa_fast.features.examples import Examples


@dataclass
class SplitCounts:
    """Counts of some examples of a split and of their features.

    Attributes:
        examples: Examples that have features.
        features: Features.
        impossible: Features without an answer, which are labelled at CLS.
        rejected: Examples that were left out.
        repaired: Examples whose first answer was not at its start and was repaired.
        unplaced: Examples that are kept for scoring although their first answer has no certain place.
        several: Examples of train with several distinct answers, all of which give labels.
        misplaced: Further answers of train that give no labels, because they are not at their start.
        unanswerable: Examples whose question has no answer.
        tokens: Tokens of all features, including special ones.
        text_tokens: Tokens of the encoded questions and contexts.
        unknown_tokens: Those of them that stand for text that the vocabulary cannot write.
        differences: Cause -> features whose `exact` and `reference` labels differ.
        repairs: Cause -> repaired examples; see `features.repairs`.
    """

    examples: int = 0
    features: int = 0
    impossible: int = 0
    rejected: int = 0
    repaired: int = 0
    unplaced: int = 0
    unanswerable: int = 0
    several: int = 0
    misplaced: int = 0
    tokens: int = 0
    text_tokens: int = 0
    unknown_tokens: int = 0
    differences: dict[str, int] = field(default_factory=dict)
    repairs: dict[str, int] = field(default_factory=dict)

    def add(self, other: SplitCounts) -> None:
        """Add the counts of other examples."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if not isinstance(value, dict):
                setattr(self, name, mine + value)
                continue
            for cause, count in value.items():
                mine[cause] = mine.get(cause, 0) + count

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as the index holds them."""
        return {
            **vars(self),
            "differences": dict(sorted(self.differences.items())),
            "repairs": dict(sorted(self.repairs.items())),
        }


@dataclass(frozen=True)
class FeaturizedTable:
    """The features of a table of examples, and what evaluation needs with them.

    Attributes:
        batches: The features, in `Featurizer.schema`; an iterator that computes them if there are many.
        rejects: Examples that were left out, with the reasons.
        repairs: Examples whose first answer was repaired or has no certain place.
        counts: Counts of examples and features.
        examples: The checked examples that the features were cut from.
        contexts: Their encoded documents [D].
        leading_chars: int32[D], white space removed from the start of each document before it was encoded.
        feature_counts: int32[E], features of each example.
        further: Further labels of all features, see `schema.Features`.
    """

    batches: Iterable[pa.RecordBatch]
    rejects: list[Reject]
    repairs: list[Repair]
    counts: SplitCounts
    examples: Examples
    contexts: EncodedTexts
    leading_chars: Int32s
    feature_counts: Int32s
    further: Ragged | None = None


class Featurizer:
    """Turns tables of question-answering examples into tables of features.

    Args:
        model: The model whose tokenizer is used: "minilm", a local folder, or a Hub model id.
        config: Window sizes and kind of labels.
        split: "train" leaves out the columns that evaluation needs, and follows `config.drop_impossible`.
        encode: How texts are tokenized; see `BuildOptions.encode`. The features are the same.
        columns: Our column names -> those of the tables, where they differ.

    Raises:
        UserError: The model has no usable tokenizer, or the options contradict each other.

    Examples:
        >>> featurizer = Featurizer("minilm", FeatureConfig(max_length=512))
        >>> features = featurizer(load("squad")["train"].to_arrow())
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
        from qa_fast.sources.rows import check_names

        check_names(columns or {})
        folder = resolve_model(model, weights=False)
        self._settle(load_encoder(folder, encode), config or FeatureConfig(), split, columns)
        check_longest(self.config, folder)

    @classmethod
    def of_encoder(cls, encoder: TextEncoder, config: FeatureConfig, split: str) -> Featurizer:
        """Make a featurizer with a tokenizer that is loaded already.

        Raises:
            UserError: The options contradict each other.
        """
        made = cls.__new__(cls)
        made._settle(encoder, config, split, None)
        return made

    def _settle(self, encoder: TextEncoder, config: FeatureConfig, split: str, columns: dict[str, str] | None) -> None:
        config.check()
        check_room(config, encoder)
        self.encoder, self.config, self.split, self.columns = encoder, config, split, dict(columns or {})

    def __call__(self, table: Any) -> pa.Table:
        """Return the features of a table of examples.

        Args:
            table: A data frame, an Arrow table, a list of dicts, or another single table that `qa_fast.featurize`
                takes, with id, question, context and answers. Ids are required and must be unique, since they tell
                features apart; only repetitions within the table are found.

        Returns:
            Columns of `schema`. Rejected examples have no rows; `featurize` returns them.

        Raises:
            UserError: It is no table, or a column is missing or of an unsuitable type.
        """
        return pa.Table.from_batches(self.featurize(table).batches, self.schema)

    def featurize(
        self,
        table: Any,
        repeated: np.ndarray | None = None,
        unreadable: Sequence[Reject] = (),
        clock: StageClock | None = None,
    ) -> FeaturizedTable:
        """Return the features of a table of examples, with rejects and counts. Several threads may call this at once.

        Args:
            table: E examples, as for calling the featurizer. A table with the schema `raw.EXAMPLES` is used as it is.
            repeated: bool[E], examples to leave out because their ids occurred before; None searches the table.
            unreadable: Rejects to report with those of the table.
            clock: Times the stages.

        Raises:
            UserError: See calling the featurizer.
        """
        from qa_fast.features.examples import IdSet, check_examples
        from qa_fast.features.several import labels_of_further
        from qa_fast.features.windows import BATCH_TOKENS, featurize_examples
        from qa_fast.shards.write import feature_batch

        if not isinstance(table, pa.Table) or table.schema != EXAMPLES:
            table, more = self._normalized(table)
            unreadable = [*unreadable, *more]
        clock = clock or StageClock()
        with clock("check"):
            if repeated is None:
                repeated = IdSet().add(one_chunk(table["id"]))
            checked = check_examples(table, repeated, scored=self.split != TRAIN)
        drop = self.config.drop_impossible and self.split == TRAIN
        further = labels_of_further(self.config, training=self.split == TRAIN)
        features = featurize_examples(checked.examples, self.encoder, self.config, drop, further, clock)
        examples, tokens = features.encoded.examples, int(features.windows.lengths.sum(dtype=np.int64))
        laid_out = clock.each("lay out", features.batches(self.encoder))
        batches: Iterable[pa.RecordBatch] = (feature_batch(part, examples.ids, self.split) for part in laid_out)
        if tokens <= BATCH_TOKENS:
            batches = list(batches)
        rejects = [*unreadable, *checked.rejects.values(), *features.rejects]
        repairs = list(checked.repairs.values())
        causes = Counter(repair.cause for repair in repairs)
        text_tokens, unknown = features.encoded.count_tokens(self.encoder.unknown_id)
        return FeaturizedTable(
            batches=batches,
            rejects=rejects,
            repairs=repairs,
            counts=SplitCounts(
                examples=len(examples),
                features=len(features.windows),
                impossible=int((features.labels.start_positions == features.windows.cls_position).sum()),
                rejected=len(rejects),
                repaired=len(repairs) - causes[UNPLACED],
                unplaced=causes.pop(UNPLACED, 0),
                unanswerable=int((list_lengths(examples.answers.field("text")) == 0).sum()),
                several=features.labels.several,
                misplaced=features.labels.misplaced,
                tokens=tokens,
                text_tokens=text_tokens,
                unknown_tokens=unknown,
                differences=dict(features.labels.differences),
                repairs=dict(causes),
            ),
            examples=examples,
            contexts=features.encoded.contexts,
            leading_chars=features.encoded.leading_chars,
            feature_counts=np.bincount(features.windows.example_index, minlength=len(examples)).astype(np.int32),
            further=features.labels.further,
        )

    def _normalized(self, table: Any) -> tuple[pa.Table, list[Reject]]:
        """Bring a table to the schema `raw.EXAMPLES`; rows with values that are not accepted become rejects."""
        from qa_fast.sources.memory import read_table

        tables, rejects = [EXAMPLES.empty_table()], []
        for part, more in read_table(table, self.columns, needs_ids=True):
            tables.append(part)
            rejects += more
        return pa.concat_tables(tables).unify_dictionaries(), rejects

    @cached_property
    def schema(self) -> pa.Schema:
        """The schema of the features: `FEATURE_COLUMNS`, and in every split except train `EVALUATION_COLUMNS`."""
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
        """Everything besides the examples that decides the bits of the features."""
        return {
            "format": FORMAT_VERSION,
            "version": __version__,
            "config": self.config.to_dict(),
            "tokenizer": self.encoder.tokenizer_hash,
            "token_types": self.encoder.has_token_types,
            # So that shards whose exact labels have the first answers alone are made again.
            **({"answers": "all"} if self.config.labels == "exact" else {}),
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of `decides` and the split. Equal fingerprints make equal features from equal tables."""
        return hashlib.sha256(canonical_json(self.decides | {"split": self.split}).encode()).hexdigest()


def check_room(config: FeatureConfig, encoder: TextEncoder) -> None:
    """Refuse an overlap that is not smaller than the room for context in a window.

    Raises:
        UserError: The overlap is too large.
    """
    room = config.max_length - encoder.template.special_tokens
    if config.doc_stride >= room:
        raise UserError(
            f"--doc-stride (the overlap of windows) must be smaller than the room for context, at most {room} tokens "
            f"with --max-length {config.max_length}; received {config.doc_stride}: lower it or raise --max-length"
        )


def check_longest(config: FeatureConfig, folder: Path) -> None:
    """Refuse windows longer than the model's longest input. A model of an unknown family has no limit here.

    Raises:
        UserError: The windows are too long.
    """
    encoder = known_config(folder)
    if encoder is not None and config.max_length > encoder.max_length:
        raise UserError(
            f"--max-length must be at most {encoder.max_length}, the longest input of {folder.name}; received "
            f"{config.max_length}: lower it, or choose another --model"
        )
