"""Checks of a card and of the files beside it, before they are published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard

from qa_fast.hub.card import CARD, TASK

_RECOMMENDED = {
    "base_model": "the Hub id of the model that training started from",
    "datasets": "the Hub ids of the data",
    "language": "the language of the texts",
}
# Larger files are not searched for paths.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Finding:
    """A problem of a card or a folder.

    Attributes:
        must: Whether the push is refused until it is solved.
        text: The rule, what was found, and what to do.
    """

    must: bool
    text: str


def check_card(card: ModelCard) -> list[Finding]:
    """Return what the Hub needs to show the model and readers need to judge it, if the card lacks it."""
    data, findings = card.data, []
    if data.get("pipeline_tag") != TASK:
        text = f"pipeline_tag must be {TASK}; received {data.get('pipeline_tag')!r}: correct it in {CARD}"
        findings.append(Finding(True, text))
    if not data.get("library_name"):
        text = f"library_name must name the library that loads the model: add transformers to {CARD}"
        findings.append(Finding(True, text))
    if not data.get("license"):
        text = f"no license is given, so nobody may use the model: add `license: ...` to {CARD}"
        findings.append(Finding(False, text))
    measured = {result.metric_type for result in data.get("eval_results") or []}
    missing = [name for name in ("exact_match", "f1") if name not in measured]
    if missing:
        findings.append(Finding(False, f"model-index has no {' and no '.join(missing)}: train with a validation split"))
    findings += [
        Finding(False, f"{name} is missing: add {meaning} to {CARD}, if there is one to name")
        for name, meaning in _RECOMMENDED.items()
        if not data.get(name)
    ]
    return findings


def files_with_home_path(folder: Path, names: Iterable[str]) -> list[str]:
    """Return which of the small text files contain the path of the user's home folder."""
    home = str(Path.home())
    if len(home) < 3:  # "/" is in every text
        return []
    paths = ((name, folder / name) for name in names if name.endswith((".json", ".md", ".yaml", ".txt")))
    return [
        name
        for name, path in paths
        if path.stat().st_size < _MOST_BYTES and f"{home}/" in path.read_text(encoding="utf-8", errors="replace")
    ]
