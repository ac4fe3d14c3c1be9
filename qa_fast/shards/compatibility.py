"""Checks that shards and a model fit each other, before features are passed to the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qa_fast.encode import load_encoder
from qa_fast.errors import UserError
from qa_fast.model.config import EncoderConfig
from qa_fast.shards import Shards, Split
from qa_fast.sources import resolve_model


def model_of(shards: Shards, name: str | None, say: Callable[[str], None] = lambda _: None, **options: bool) -> Path:
    """Find a model, as `resolve_model` does; None means the one whose tokenizer made the shards.

    Raises:
        UserError: There is no such model; that of the shards may be on another machine.
    """
    made_with = shards.manifest["model"]["name"]
    if name not in (None, made_with):
        return resolve_model(name, say, **options)
    try:
        return resolve_model(made_with, say, **options)
    except UserError as error:
        raise UserError(
            f"the model whose tokenizer made the shards must be within reach; {shards.folder} was made with "
            f"{made_with} ({error}): name the folder where it is now with --model"
        ) from None


def other_tokenizer(shards: Shards, folder: Path) -> tuple[str, str] | None:
    """Compare the tokenizer of shards with that of a model folder.

    Returns:
        The first digits of the hashes of both, or None if the tokenizers are the same.
    """
    theirs, own = shards.manifest["model"]["tokenizer_hash"], load_encoder(folder).tokenizer_hash
    return None if theirs == own else (theirs[:12], own[:12])


def check_tokenizer(shards: Shards, folder: Path) -> None:
    """Refuse shards that were not made with the tokenizer of a model folder.

    Raises:
        UserError: They were made with another tokenizer.
    """
    differing = other_tokenizer(shards, folder)
    if differing:
        raise UserError(
            "shards and model must have the same tokenizer; the shards were made with that of "
            f"{shards.manifest['model']['name']} ({differing[0]}), {folder} has another ({differing[1]}): featurize "
            f"again with --model {folder}, or use the model that the shards name"
        )


def check_features(shards: Shards, split: Split, encoder: EncoderConfig, model: Path) -> None:
    """Refuse features that a model cannot read: it would read outside of its tables, or have nothing to learn from.

    Labels after the end of a feature are allowed, since `--labels reference` puts some into the padding.

    Args:
        shards: The shards of the split.
        split: The split to train on or to score.
        encoder: The configuration of the model.
        model: Its folder.

    Raises:
        UserError: A token id, a token type, a length or a label is out of bounds.
    """
    types = encoder.embedding.types
    for chunk in split.chunks:
        ids = chunk.input_ids
        columns = [("a token's id", "its vocabulary", ids.values, encoder.embedding.vocab_size)]
        if chunk.token_type_ids is not None and types > 1:
            columns.append(("a token's type", "its types", chunk.token_type_ids.values, types))
        for subject, table, values, size in columns:
            for value in (int(values.min(initial=0)), int(values.max(initial=0))):
                if not 0 <= value < size:
                    raise UserError(
                        f"{subject} must be one of the model's, 0 to {size - 1:,} ({table}, as {model} has it); "
                        f"received {value:,} in {split.name} of {shards.folder}: featurize again with --model {model}"
                    )
        labels = (chunk.start_positions, chunk.end_positions)
        lowest = min(int(column.min(initial=0)) for column in labels)
        highest = max(int(column.max(initial=0)) for column in labels)
        shortest = int(ids.lengths.min(initial=1))
        if shortest < 1 or lowest < 0 or highest >= split.max_length:
            raise UserError(
                f"a feature must have a token, and labels from 0 to {split.max_length - 1}; received lengths from "
                f"{shortest} and labels from {lowest:,} to {highest:,} in {split.name} of {shards.folder}: featurize "
                "again"
            )
