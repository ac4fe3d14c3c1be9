"""`qa-fast models`: list the supported families of encoders, and checkpoints to start from."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from qa_fast.model.catalogue import CHECKPOINTS, Checkpoint
from qa_fast.model.families import FAMILIES


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON on standard output.")] = False,
) -> None:
    """List the supported families and checkpoints to start from.

    Checkpoints are listed with their size, longest input and published scores.
    """
    if as_json:
        families = [
            {"model_type": kind, "name": family.name, "architecture": family.architecture}
            for kind, family in FAMILIES.items()
        ]
        typer.echo(
            json.dumps(
                {"families": families, "checkpoints": [dataclasses.asdict(checkpoint) for checkpoint in CHECKPOINTS]}
            )
        )
        return
    typer.echo("Families: any checkpoint whose config.json has one of these values of model_type\n")
    for kind, family in FAMILIES.items():
        typer.echo(f"  {kind:12} {family.name}")
    for trained, title in ((False, "To train from"), (True, "Already trained to answer")):
        typer.echo(f"\n{title} (scores on SQuAD's dev sets, exact match / F1, as published)\n")
        for checkpoint in CHECKPOINTS:
            if checkpoint.trained == trained:
                typer.echo(_described(checkpoint))
    typer.echo("\n`minilm`, the default, is the first. Other models of these families can be used, too.")


def _described(checkpoint: Checkpoint) -> str:
    scores = [f"{name} {score}" for name, score in (("v1.1", checkpoint.squad_1), ("v2", checkpoint.squad_2)) if score]
    facts = [f"{checkpoint.parameters:g}M parameters", f"{checkpoint.longest:,} tokens", *scores]
    source = f"\n    scores: {checkpoint.source}" if checkpoint.source else ""
    facts.insert(0, FAMILIES[checkpoint.family].name)
    return f"  {checkpoint.name}\n    {checkpoint.when}\n    {', '.join(facts)}{source}"
