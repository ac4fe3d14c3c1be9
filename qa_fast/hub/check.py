"""What is wrong with a card, or missing from it, before strangers read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard

from qa_fast.hub.card import CARD, TASK


@dataclass(frozen=True)
class Finding:
    """One thing to know before a push.

    Attributes:
        must: Whether the push is refused until it is put right.
        text: The rule, what was found, and what to do.
    """

    must: bool
    text: str


def check_card(card: ModelCard) -> list[Finding]:
    """Look for what a stranger needs in order to judge the model, and the Hub to show it."""
    data = card.data
    findings = []
    if data.get("pipeline_tag") != TASK:
        findings.append(Finding(True, f"pipeline_tag must be {TASK}; it is {data.get('pipeline_tag')!r}: mend {CARD}"))
    if not data.get("library_name"):
        findings.append(Finding(True, f"library_name must say what opens the model: add transformers to {CARD}"))
    if not data.get("license"):
        findings.append(
            Finding(False, f"no license is chosen, so nobody may use the model: add one as `license: ...` to {CARD}")
        )
    measured = {result.metric_type for result in data.get("eval_results") or []}
    missing = [name for name in ("exact_match", "f1") if name not in measured]
    if missing:
        findings.append(Finding(False, f"model-index has no {' and no '.join(missing)}: train with a validation split"))
    told = {
        "base_model": "the Hub id of the model that training started from",
        "datasets": "the Hub ids of the data",
        "language": "the language of the texts",
    }
    for name, what in told.items():
        if not data.get(name):
            findings.append(Finding(False, f"{name} is not said: add {what} to {CARD}, if there is one to name"))
    return findings


def names_of_this_machine(folder: Path, names: list[str]) -> list[str]:
    """Which of the small text files hold the path of the user's home folder."""
    home = str(Path.home())
    if len(home) < 3:  # "/", which is in every text
        return []
    found = []
    for name in names:
        path = folder / name
        if path.suffix in (".json", ".md", ".yaml", ".txt") and path.stat().st_size < 1 << 20:
            text = path.read_text(encoding="utf-8", errors="replace")
            if f"{home}/" in text:
                found.append(name)
    return found
