"""The model card: README.md and .eval_results/, made from what was recorded and from nothing else.

What a person decides is kept from the card that is there: the license, which is never made up, and the language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from qa_fast.errors import UserError
from qa_fast.hub.facts import Facts, Score, as_written, read_facts, record_data, write_text
from qa_fast.hub.sections import body, questions
from qa_fast.model.files import folder_within, plain_file

CARD = "README.md"
EVAL_RESULTS = ".eval_results"
TASK = "question-answering"
MARK = "<!-- Written by qa-fast from what training recorded. Writing it again keeps license and language. -->"
_MEASURED = "measured by qa-fast"
_KEPT = ("license", "license_name", "license_link", "language")


def write_card(folder: str | Path, manifest: Mapping[str, Any] | None = None) -> Path:
    """Write a model folder's README.md and .eval_results/.

    Args:
        folder: The model folder, with what training recorded in it.
        manifest: `qa_fast.json` of the shards that it was trained on; recorded in the folder, so needed once only.

    Returns:
        The card.

    Raises:
        UserError: The folder holds no facts to make a card from, or a README.md that is not of ours.
    """
    folder = Path(folder)
    path = folder / CARD
    kept: dict[str, Any] = {}
    if plain_file(folder, CARD) is not None:
        there = read_card(path.read_text(encoding="utf-8"))
        if MARK not in there.text:
            raise UserError(f"a card replaces only a card that qa-fast wrote; {path} is another: move it away first")
        kept = {name: value for name, value in there.data.to_dict().items() if name in _KEPT}
    if manifest is not None:
        record_data(folder, manifest)
    with as_written(folder):
        facts = read_facts(folder)
        files, card = eval_results(facts), card_text(facts, kept)
    for name in sorted(old.name for old in (folder / EVAL_RESULTS).glob("*.yaml")):
        there_too = plain_file(folder, name, EVAL_RESULTS)
        if there_too is not None and _MEASURED in there_too.read_text(encoding="utf-8", errors="replace"):
            there_too.unlink()
    for name, text in files.items():
        write_text(folder_within(folder, EVAL_RESULTS) / name, text)
    write_text(path, card)
    return path


def read_card(text: str) -> ModelCard:
    """Parse a card.

    Raises:
        UserError: What stands at its top is not the Hub's metadata.
    """
    import yaml

    try:
        return ModelCard(text)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"a card must begin with metadata between two lines of '---', in YAML; {CARD} does not "
            f"({_first_line(error)}): mend it, or remove the file and write it again"
        ) from None


def card_text(facts: Facts, kept: Mapping[str, Any] | None = None) -> str:
    """A card's text: a pure function of the facts.

    Args:
        facts: What was recorded.
        kept: Metadata that a person decided: license, license_name, license_link, language.
    """
    data = {"language": facts.data.get("language"), **(kept or {})}
    results = [result for score in facts.scores for result in _results(score)]
    about = ModelCardData(
        pipeline_tag=TASK,
        library_name="transformers",
        base_model=facts.base_model,
        datasets=[facts.data["dataset"]] if facts.data.get("dataset") else None,
        metrics=["exact_match", "f1"],
        tags=["qa-fast", "extractive-question-answering"],
        model_name=facts.name if results else None,
        eval_results=results or None,
        **data,
    )
    return f"---\n{about.to_yaml()}\n---\n\n{MARK}\n\n{body(facts)}"


def _results(score: Score) -> list[EvalResult]:
    about: dict[str, Any] = {
        "task_type": TASK,
        "task_name": "Question Answering",
        "dataset_type": score.data.get("dataset") or _slug(score.data["name"]),
        "dataset_name": score.data["name"],
        "dataset_config": score.data.get("config"),
        "dataset_split": score.split,
        "dataset_revision": score.data.get("revision"),
        "dataset_args": {"questions": score.questions},
    }
    found = (("exact_match", "Exact Match", score.exact_match), ("f1", "F1", score.f1))
    return [
        EvalResult(metric_type=kind, metric_name=name, metric_value=round(value, 4), **about)
        for kind, name, value in found
    ]


def eval_results(facts: Facts) -> dict[str, str]:
    """The files of `.eval_results/`, by name; the Hub takes scores on datasets of its own only.

    One file for each dataset and split; the format has one value for each (dataset, task), so either metric is a task.
    """
    from huggingface_hub.utils import yaml_dump

    files = {}
    for score in facts.scores:
        if not score.data.get("dataset"):
            continue
        dataset = {"id": score.data["dataset"]}
        revision = {"revision": score.data["revision"]} if score.data.get("revision") else {}
        notes = f"{questions(score)} questions of split {score.split}, {_MEASURED}"
        entries = [
            {"dataset": {**dataset, "task_id": name, **revision}, "value": round(value, 4), "notes": notes}
            for name, value in (("exact_match", score.exact_match), ("f1", score.f1))
        ]
        files[f"{_slug(score.data['dataset'])}-{_slug(score.split)}.yaml"] = yaml_dump(entries, sort_keys=False)
    return files


def _slug(name: str) -> str:
    """A name as letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "data"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
