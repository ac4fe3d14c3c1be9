"""`qa-fast models`: which families of encoders are read, and checkpoints to start from."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from qa_fast.model.catalogue import CHECKPOINTS, Checkpoint
from qa_fast.model.families import FAMILIES


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON on standard output.")] = False,
) -> None:
    """List the supported families, and checkpoints with their size, longest input and published scores."""
    if as_json:
        families = [
            {"model_type": kind, "name": family.name, "architecture": family.architecture}
            for kind, family in FAMILIES.items()
        ]
        typer.echo(
            json.dumps({"families": families, "checkpoints": [dataclasses.asdict(each) for each in CHECKPOINTS]})
        )
        return
    typer.echo("Families: any checkpoint whose config.json has one of these as its model_type\n")
    for kind, family in FAMILIES.items():
        typer.echo(f"  {kind:12} {family.name}")
    for trained, title in ((False, "To train from"), (True, "Trained to answer already")):
        typer.echo(f"\n{title} (scores on SQuAD's dev sets, exact match / F1, as published)\n")
        for each in CHECKPOINTS:
            if each.trained == trained:
                typer.echo(_told(each))
    typer.echo("\n`minilm`, the default, is the first. Models of these families made elsewhere open alike.")


def _told(each: Checkpoint) -> str:
    scores = [f"{name} {score}" for name, score in (("v1.1", each.squad_1), ("v2", each.squad_2)) if score]
    about = [f"{each.parameters:g}M parameters", f"{each.longest:,} tokens", *scores]
    source = f"\n    scores: {each.source}" if each.source else ""
    return f"  {each.name}\n    {each.when}\n    {FAMILIES[each.family].name}, {', '.join(about)}{source}"
