"""Facts about a trained model, which training and evaluation recorded in its folder.

    training/metrics.json      options, course and outcome of the run, written by `qa-fast train`
    training/data.json         names, counts and checksums of the data, without paths of the machine
    training/evaluations.json  scores that `qa-fast evaluate` measured later
    training/training.png      the loss curve

A model card is made only from these records, so it can be made again and claims nothing that was not measured.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.settings import read_settings
from qa_fast.errors import UserError, shown
from qa_fast.model.files import checked_files, folder_within, plain_file
from qa_fast.model.identity import are_other_weights
from qa_fast.sources import MINILM_ID
from qa_fast.sources.resolve import SQUAD_ID
from qa_fast.store import is_url, write_json, write_whole
from qa_fast.version import __version__

TRAINING = "training"
METRICS, DATA, EVALUATIONS, PICTURE = "metrics.json", "data.json", "evaluations.json", "training.png"
# SQuAD on the Hub has one configuration, in one language.
_SQUAD = {"name": "SQuAD v1.1", "dataset": SQUAD_ID, "config": "plain_text", "language": "en"}


@dataclass(frozen=True)
class Score:
    """The score of a model on a split.

    Attributes:
        split: Name of the split.
        questions: Number of questions that were scored.
        of: Number of questions in the split.
        exact_match: Exact match in percent.
        f1: F1 in percent.
        precision: Precision that the model computed in; "" if unknown.
        seed: Seed of the sample, if not all questions were scored.
        chose: Whether the saved epoch was chosen by the F1 on this split.
        data: Facts about the data, see `data_facts`.
    """

    split: str
    questions: int
    of: int
    exact_match: float
    f1: float
    precision: str
    seed: int
    chose: bool
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """Everything that a card is made from.

    Attributes:
        name: Name of the folder.
        config: Content of `config.json`.
        parameters: Number of weights; 0 if they cannot be read.
        metrics: Content of `training/metrics.json`.
        data: Content of `training/data.json`; empty if it does not exist.
        scores: The evaluations, that of training first.
        has_picture: Whether there is a picture of the loss curve.
        answering: The model's own options of answering, with a value for each rule.
    """

    name: str
    config: Mapping[str, Any]
    parameters: int
    metrics: Mapping[str, Any]
    data: Mapping[str, Any]
    scores: tuple[Score, ...]
    has_picture: bool
    answering: AnswerOptions

    @property
    def base_model(self) -> str | None:
        """The Hub id of the model that training started from; None if that was a local folder."""
        base_model: str | None = self.metrics.get("base_model", self.data.get("base_model"))
        return base_model


def hub_id(name: str, local: bool) -> str | None:
    """Return the Hub id that a model's name means; None for a local folder, a URL, or "ADAPTER+BASE"."""
    if name == "minilm":
        return MINILM_ID
    return None if local or "+" in name or Path(name).is_absolute() or is_url(name) else name


def data_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about the data of shards that may be published.

    Args:
        manifest: `qa_fast.json` of the shards.

    Returns:
        name, dataset (Hub id or None), config, revision, language (or None), base_model (Hub id or None), features
        (options), tokenizer_hash, source_sha256, files (name to SHA-256), splits (counts and checksums of the shards),
        qa_fast_version. Paths of local files and folders are reduced to their last part.
    """
    source, model = manifest["source"], manifest["model"]
    facts: dict[str, Any] = {"name": Path(source["name"]).name, "dataset": None, "config": None, "language": None}
    kind, _, revision = source["origin"].partition("@")
    if source["name"] == "squad" or kind == f"Hub {SQUAD_ID}":
        facts |= _SQUAD
    elif kind.startswith("Hub "):
        dataset, _, config = source["name"].partition(":")
        facts |= {"name": source["name"], "dataset": dataset, "config": config or None}
    return facts | {
        "revision": revision if kind.startswith("Hub ") and revision else None,
        "base_model": hub_id(model["name"], local=False),
        "features": dict(manifest["config"]),
        "tokenizer_hash": model["tokenizer_hash"],
        "source_sha256": source["sha256"],
        "files": dict(source["files"]),
        "splits": {name: dict(split) for name, split in manifest["splits"].items()},
        "qa_fast_version": manifest.get("qa_fast_version", __version__),
    }


def record_data(folder: str | Path, manifest: Mapping[str, Any]) -> None:
    """Write `training/data.json` into a model folder.

    Args:
        folder: The model folder.
        manifest: `qa_fast.json` of the shards that the model was trained on.
    """
    write_json(folder_within(Path(folder), TRAINING) / DATA, data_facts(manifest))


def record_evaluation(
    folder: str | Path,
    manifest: Mapping[str, Any],
    split: str,
    *,
    exact_match: float,
    f1: float,
    questions: int,
    precision: str = "",
    seed: int = 0,
) -> None:
    """Add a score to `training/evaluations.json`; it replaces an earlier score on the same split of the same data.

    Args:
        folder: The model folder.
        manifest: `qa_fast.json` of the shards.
        split: The split that was scored.
        exact_match: Exact match in percent.
        f1: F1 in percent.
        questions: Number of questions that were scored.
        precision: Precision that the model computed in.
        seed: Seed of the sample, if not all questions were scored.
    """
    path = folder_within(Path(folder), TRAINING) / EVALUATIONS
    entry = {
        "split": split,
        "questions": questions,
        "exact_match": exact_match,
        "f1": f1,
        "precision": precision,
        "seed": seed,
        "data": data_facts(manifest),
    }
    with checked_figures(Path(folder)):
        earlier = _read_record(Path(folder), EVALUATIONS, [])
        kept = [other for other in earlier if _data_of(other) != _data_of(entry)]
    write_json(path, [*kept, entry])


def check_records(folder: Path) -> None:
    """Check that `training/` describes the weights of a model folder, if it says of which weights it is.

    Raises:
        UserError: The weights have been replaced since, such as by a training with torch.
    """
    with checked_figures(folder):
        recorded = _read_record(folder, METRICS, {}).get("weights")
    if are_other_weights(folder, recorded):
        raise UserError(
            f"{TRAINING}/{METRICS} must describe the model's weights; those in {str(folder)!r} have been replaced "
            f"since: remove {TRAINING}/, .eval_results/ and README.md and write a card yourself, or train again"
        )


def read_facts(folder: str | Path) -> Facts:
    """Read the records of a model folder.

    Raises:
        UserError: The folder holds no model, or no records of the training of its weights.
    """
    folder = Path(folder)
    config, metrics = _read_record(folder, "config.json", None, below=""), _read_record(folder, METRICS, None)
    if config is None:
        raise UserError(f"a model folder must hold config.json; {str(folder)!r} does not: check the path")
    if metrics is None:
        raise UserError(
            f"a card is made from {TRAINING}/{METRICS}, which training writes; {str(folder)!r} does not hold it: write "
            "README.md yourself"
        )
    check_records(folder)
    data = _read_record(folder, DATA, {})
    return Facts(
        name=folder.resolve().name,
        config=config,
        parameters=count_parameters(folder),
        metrics=metrics,
        data=data,
        scores=_scores(metrics, data, _read_record(folder, EVALUATIONS, [])),
        has_picture=plain_file(folder, PICTURE, TRAINING) is not None,
        answering=read_settings(folder).with_defaults(),
    )


def _scores(
    metrics: Mapping[str, Any], data: Mapping[str, Any], evaluations: list[dict[str, Any]]
) -> tuple[Score, ...]:
    """Return the evaluations, after training's own score of the saved epoch unless one of them is on its split."""
    options, best = metrics.get("config", {}), metrics.get("best")
    validation = options.get("validation", "")
    has_epochs = len(metrics.get("history", {}).get("epochs", [])) > 1
    validation_data = (validation, data.get("name"), data.get("source_sha256"))
    on_validation = [_data_of(entry) == validation_data for entry in evaluations]
    scores = [
        Score(
            split=entry["split"],
            questions=entry["questions"],
            of=_examples(entry["data"], entry["split"]) or entry["questions"],
            exact_match=entry["exact_match"],
            f1=entry["f1"],
            precision=entry["precision"],
            seed=entry["seed"],
            chose=has_epochs and is_validation,
            data=entry["data"],
        )
        for entry, is_validation in zip(evaluations, on_validation, strict=True)
    ]
    examples = _examples(data, validation)
    if best and examples and not any(on_validation):
        exact_match, f1 = best.get("squad") or (best["exact_match"], best["f1"])
        own = Score(
            split=validation,
            questions=min(examples, options.get("validation_examples") or examples),
            of=examples,
            exact_match=exact_match,
            f1=f1,
            precision=best.get("precision") or metrics.get("precision", {}).get("value", ""),
            seed=options.get("seed", 0),
            chose=has_epochs,
            data=data,
        )
        scores.insert(0, own)
    return tuple(scores)


def _data_of(evaluation: Mapping[str, Any]) -> tuple[str, str, str]:
    return evaluation["split"], evaluation["data"]["name"], evaluation["data"]["source_sha256"]


def _examples(data: Mapping[str, Any], split: str) -> int:
    return int(data.get("splits", {}).get(split, {}).get("examples", 0))


def count_parameters(folder: Path) -> int:
    """Count the weights in safetensors files by their headers; 0 if there are no readable ones.

    A tensor that is in several files, such as a whole file and its parts, counts once.

    Raises:
        UserError: A file is no plain file of the folder.
    """
    sizes: dict[str, int] = {}
    for path in checked_files(folder, tuple(path.name for path in folder.glob("*.safetensors"))).values():
        try:
            with safe_open(path, framework="numpy") as file:
                sizes |= {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return 0
    return sum(sizes.values())


@contextlib.contextmanager
def checked_figures(folder: Path) -> Iterator[None]:
    """Turn errors from records with an unexpected structure into a message.

    Raises:
        UserError: The records do not have the structure that training and evaluation write.
    """
    try:
        yield
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"a card is made from records as qa-fast writes them; those in {str(folder / TRAINING)!r} are different "
            f"({type(error).__name__}: {shown(str(error), 160)}): restore them, or write README.md yourself"
        ) from error


def _read_record(folder: Path, name: str, missing: Any, below: str = TRAINING) -> Any:
    """Read a JSON file of a model folder with Python's parser, since a loss may be NaN; `missing` if there is none."""
    path = plain_file(folder, name, below)
    if path is None:
        return missing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} must be readable JSON; it is not ({error}): restore or remove it") from None


def write_text(path: Path, text: str) -> None:
    """Write a text whole or not at all. Names of local files in it may hold bytes that are not UTF-8."""
    write_whole(path, text.encode("utf-8", "backslashreplace"))
