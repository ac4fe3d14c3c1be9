"""What is known about a trained model: facts that training and evaluation left in its folder.

    training/metrics.json      options, course and outcome of the run, from `qa-fast train`
    training/data.json         what the data was: names, counts, checksums; no path of the machine it lay on
    training/evaluations.json  scores that `qa-fast evaluate` measured later, if it was asked to record them
    training/training.png      the loss curves

A model card is made from these and from nothing else, so it can be made again, and says nothing that was not measured.
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

from qa_fast.errors import UserError, shown
from qa_fast.model.files import checked_files, folder_within, plain_file
from qa_fast.sources import MINILM_ID
from qa_fast.sources.resolve import SQUAD_ID
from qa_fast.store import write_json, write_whole
from qa_fast.version import __version__

TRAINING = "training"
METRICS, DATA, EVALUATIONS, PICTURE = "metrics.json", "data.json", "evaluations.json", "training.png"
# The Hub's SQuAD has one configuration, in one language.
_SQUAD = {"name": "SQuAD v1.1", "dataset": SQUAD_ID, "config": "plain_text", "language": "en"}


@dataclass(frozen=True)
class Score:
    """What a model scored on a split.

    Attributes:
        split: The split's name.
        questions: How many were scored.
        of: How many the split holds.
        exact_match: In percent.
        f1: In percent.
        precision: Compute dtype that it was measured in, "" where unknown.
        seed: Of the choice of questions, where not all were scored.
        chose: Whether the saved epoch was chosen by this split's F1.
        data: The data's facts, as `data_facts` gives them.
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
    """All that a card is made from.

    Attributes:
        name: The folder's name.
        config: `config.json`.
        parameters: Numbers in the weights; 0 where they cannot be read.
        metrics: `training/metrics.json`.
        data: `training/data.json`; empty where there is none.
        scores: Evaluations, training's own first.
        has_picture: Whether there is a picture of the loss.
    """

    name: str
    config: Mapping[str, Any]
    parameters: int
    metrics: Mapping[str, Any]
    data: Mapping[str, Any]
    scores: tuple[Score, ...]
    has_picture: bool

    @property
    def base_model(self) -> str | None:
        """The Hub id of the model that training started from; None where that lay in a local folder."""
        found: str | None = self.metrics.get("base_model", self.data.get("base_model"))
        return found


def hub_id(name: str, local: bool) -> str | None:
    """The Hub id that a model's name means; None for a local folder."""
    if name == "minilm":
        return MINILM_ID
    return None if local or Path(name).is_absolute() else name


def data_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What may be told of a shard folder's data.

    Args:
        manifest: `qa_fast.json` of the shards.

    Returns:
        name, dataset (Hub id or None), config, revision, language (or None), base_model (Hub id or None), features
        (options), tokenizer_hash, source_sha256, files (name to SHA-256), splits (counts and shards' checksums),
        qa_fast_version. Names of local files and folders are cut down to their last part.
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
        manifest: `qa_fast.json` of the shards that it was trained on.
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
    """Add a score to `training/evaluations.json`, in place of an earlier one on the same split of the same data.

    Args:
        folder: The model folder.
        manifest: `qa_fast.json` of the shards.
        split: Its split that was scored.
        exact_match: In percent.
        f1: In percent.
        questions: How many were scored.
        precision: Compute dtype.
        seed: Of the choice of questions, where not all were scored.
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
    with as_written(Path(folder)):
        others = [old for old in read_json(Path(folder), EVALUATIONS, [], TRAINING) if _key(old) != _key(entry)]
    write_json(path, [*others, entry])


def read_facts(folder: str | Path) -> Facts:
    """Read what a model folder says of itself.

    Raises:
        UserError: It is no model folder, or training left no figures in it.
    """
    folder = Path(folder)
    config, metrics = read_json(folder, "config.json", None), read_json(folder, METRICS, None, TRAINING)
    if config is None:
        raise UserError(f"a model folder must hold config.json; {str(folder)!r} does not: check the path")
    if metrics is None:
        raise UserError(
            f"a card is made from {TRAINING}/{METRICS}, which training leaves; {str(folder)!r} has none: write its "
            "README.md yourself"
        )
    data = read_json(folder, DATA, {}, TRAINING)
    return Facts(
        name=folder.resolve().name,
        config=config,
        parameters=count_parameters(folder),
        metrics=metrics,
        data=data,
        scores=_scores(metrics, data, read_json(folder, EVALUATIONS, [], TRAINING)),
        has_picture=plain_file(folder, PICTURE, TRAINING) is not None,
    )


def _scores(
    metrics: Mapping[str, Any], data: Mapping[str, Any], evaluations: list[dict[str, Any]]
) -> tuple[Score, ...]:
    """Later evaluations; before them training's own score of the saved epoch, where none of them is on its split."""
    options, best = metrics.get("config", {}), metrics.get("best")
    validation = options.get("validation", "")
    several = len(metrics.get("history", {}).get("epochs", [])) > 1
    # Whether an evaluation is on the split that training scored its epochs on.
    same = [_key(entry) == (validation, data.get("name"), data.get("source_sha256")) for entry in evaluations]
    scores = [
        Score(
            split=entry["split"],
            questions=entry["questions"],
            of=_examples(entry["data"], entry["split"]) or entry["questions"],
            exact_match=entry["exact_match"],
            f1=entry["f1"],
            precision=entry["precision"],
            seed=entry["seed"],
            chose=several and on_validation,
            data=entry["data"],
        )
        for entry, on_validation in zip(evaluations, same, strict=True)
    ]
    of = _examples(data, validation)
    if best and of and not any(same):
        own = Score(
            split=validation,
            questions=min(of, options.get("validation_examples") or of),
            of=of,
            exact_match=best["exact_match"],
            f1=best["f1"],
            precision=metrics.get("precision", {}).get("value", ""),
            seed=options.get("seed", 0),
            chose=several,
            data=data,
        )
        scores.insert(0, own)
    return tuple(scores)


def _key(evaluation: Mapping[str, Any]) -> tuple[str, str, str]:
    return evaluation["split"], evaluation["data"]["name"], evaluation["data"]["source_sha256"]


def _examples(data: Mapping[str, Any], split: str) -> int:
    return int(data.get("splits", {}).get(split, {}).get("examples", 0))


def count_parameters(folder: Path) -> int:
    """Numbers in a folder's safetensors weights, from the files' headers alone; 0 where there are none to read.

    A tensor that stands in several files, as beside a whole file the shards that it was made from, counts once.

    Raises:
        UserError: One of them is no plain file of the folder.
    """
    sizes: dict[str, int] = {}
    for path in checked_files(folder, tuple(path.name for path in folder.glob("*.safetensors"))).values():
        try:
            with safe_open(path, framework="numpy") as file:
                names = file.keys()
                sizes |= {name: math.prod(file.get_slice(name).get_shape()) for name in names}
        except (OSError, SafetensorError):
            return 0
    return sum(sizes.values())


@contextlib.contextmanager
def as_written(folder: Path) -> Iterator[None]:
    """What figures of another form than training and evaluation write them end in, in the user's words."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"a card is made from figures as qa-fast writes them; those in {str(folder / TRAINING)!r} are not "
            f"({type(error).__name__}: {shown(str(error), 160)}): restore them, or write README.md yourself"
        ) from error


def read_json(folder: Path, name: str, missing: Any, below: str = "") -> Any:
    """The value of a model folder's JSON file, or `missing`.

    By Python's own parser, since a loss may be NaN.

    Args:
        folder: The model folder.
        name: The file's.
        missing: What to give where it is not there.
        below: The folder within the model folder that the file stands in.

    Raises:
        UserError: It is there, but no JSON, or no plain file of the folder.
    """
    path = plain_file(folder, name, below)
    if path is None:
        return missing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} must be readable JSON; it is not ({error}): restore or remove it") from None


def write_text(path: Path, text: str) -> None:
    """Write a text whole or not at all."""
    # The name of a local file may hold bytes that are no UTF-8.
    write_whole(path, text.encode("utf-8", "backslashreplace"))
