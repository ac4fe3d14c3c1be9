"""The text of a model card, section by section, in the order in which a stranger asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qa_fast.hub.facts import PICTURE, TRAINING, Facts, Score
from qa_fast.hub.usage import usage
from qa_fast.model.families import FAMILIES
from qa_fast.shards import CHECKSUM

# Options that say where and how often things were written, not what was trained.
_NOT_TOLD = ("model", "out", "resume", "overwrite", "checkpoint_every", "log_every")

_LIMITS = """\
## What it is for, and what not

For finding where a text answers a question, in texts like those it was trained on. It writes no sentence of its own, \
knows nothing but the text it is given, does not join several places into one answer, and does not check whether the \
text is right. It returns a span even where the text holds no answer, unless it was trained and is asked to say so. \
Other subjects, styles and languages than those of its data can give much lower scores than the ones above. How it \
treats people and groups was not studied.
"""

_LICENSE = """\
## License

The license of this model is for whoever publishes it to choose. It is the one that `license` at the top of this file \
names; while none is named there, none is granted. The model it was made from and the data it was trained on have \
terms of their own: read them first.
"""


def body(facts: Facts) -> str:
    """All sections."""
    max_length = int(facts.data.get("features", {}).get("max_length", 384))
    return "\n".join([_opening(facts), _scored(facts), usage(max_length), _LIMITS, _training(facts), _LICENSE])


def _opening(facts: Facts) -> str:
    base, data = facts.base_model, facts.data
    start = f"[{base}](https://huggingface.co/{base})" if base else "a model in a local folder"
    trained_on = data.get("name", "data that was not recorded")
    linked = f"[{trained_on}](https://huggingface.co/datasets/{data['dataset']})" if data.get("dataset") else trained_on
    kind = facts.config.get("model_type")
    others = [f"{part['name']} (times {part['weight']:g})" for part in facts.metrics.get("mix", [])[1:]]
    linked += f" together with {' and '.join(others)}" if others else ""
    family = FAMILIES[kind].name if kind in FAMILIES else str(kind)
    size = f", {facts.parameters / 1e6:,.1f} million parameters" if facts.parameters else ""
    title = f"{base.split('/')[-1]}, trained to answer questions" if base else "A model that answers questions"
    return f"""\
# {title}

Given a question and a text, this model marks the span of the text that answers the question. It was made from {start} \
by fine-tuning on {linked} with qa-fast. {family} encoder{size}; weights in float32.
"""


def _scored(facts: Facts) -> str:
    if not facts.scores:
        return "## Results\n\nNot measured: there was no split to score the model on.\n"
    rows = [
        (score.data["name"], score.split, questions(score), f"{score.exact_match:.2f}", f"{score.f1:.2f}")
        for score in facts.scores
    ]
    notes = ["Exact match and F1 are SQuAD's official metrics, in percent."]
    if any(score.questions < score.of for score in facts.scores):
        seeds = sorted({score.seed for score in facts.scores if score.questions < score.of})
        notes.append(f"Where not all questions were scored, they were chosen at random (seed {_listed(seeds)}).")
    precisions = sorted({score.precision for score in facts.scores if score.precision})
    if precisions:
        notes.append(f"Measured in {_listed(precisions)}.")
    if any(score.chose for score in facts.scores):
        split = next(score.split for score in facts.scores if score.chose)
        notes.append(
            f"The epoch that was kept is the one with the best F1 on {split}, so its score is slightly hopeful: a "
            "split that chose nothing would be a fairer test."
        )
    seen = [score.split for score in facts.scores if _is_train(score, facts)]
    if seen:
        notes.append(f"{_listed(seen)} has files that the model was trained on: its score says little of other texts.")
    table = _table(("data", "split", "questions", "exact match", "F1"), rows)
    return f"## Results\n\n{table}\n{' '.join(notes)}\n"


def _is_train(score: Score, facts: Facts) -> bool:
    """Whether a file of the scored split is, byte for byte, one of those trained on."""
    train = {value for name, value in facts.data.get("files", {}).items() if name.startswith("train/")}
    files = score.data["files"].items()
    return any(value in train for name, value in files if name.startswith(f"{score.split}/"))


def questions(score: Score) -> str:
    """How many of a split's questions were scored, in words."""
    return f"all {score.of:,}" if score.questions >= score.of else f"{score.questions:,} of {score.of:,}"


def _training(facts: Facts) -> str:
    metrics, data = facts.metrics, facts.data
    parts = ["## Training\n"]
    if data:
        parts.append(_data(facts))
    options = {name: value for name, value in metrics.get("config", {}).items() if name not in _NOT_TOLD}
    chosen = {name: metrics[name] for name in ("precision", "jit") if name in metrics}
    rows = [(name.replace("_", " "), _option(value)) for name, value in options.items() if name not in chosen]
    rows += [(name, f"{about['value']} ({about['reason']})") for name, about in chosen.items()]
    rows.append(("steps", f"{metrics.get('steps', 0):,}"))
    parts.append(f"### Hyperparameters\n\n{_table(('option', 'value'), rows)}")
    parts.append(_course(facts))
    versions = metrics.get("versions", {})
    parts.append("### Versions\n\n" + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".\n")
    if data:
        parts.append(_checksums(data))
    return "\n".join(parts)


def _data(facts: Facts) -> str:
    data, windows, metrics = facts.data, facts.data["features"], facts.metrics
    counts = ("examples", "features", "impossible", "rejected", "tokens")
    rows = [
        (name, *(f"{split[count]:,}" if count in split else "" for count in counts))
        for name, split in data["splits"].items()
    ]
    table = _table(("split", "questions", "windows", "without answer", "rejected", "tokens"), rows)
    limit = metrics.get("config", {}).get("max_examples")
    some = limit is not None and limit < data["splits"].get("train", {}).get("examples", 0)
    used = f"a random {limit:,} questions" if some else "all questions"
    if limit is not None and len(metrics.get("mix", [])) > 1:  # chosen among all folders, of which one is told of here
        used = f"at most {limit:,} random questions, those of the other folders counted,"
    return f"""\
### Data

{table}
A text is cut into windows of at most {windows["max_length"]} tokens with the question, neighbours sharing \
{windows["doc_stride"]}; labels `{windows["labels"]}`. Trained on {used} of train: {metrics.get("features", 0):,} \
windows, {metrics.get("tokens", 0):,} tokens an epoch.
"""


def _course(facts: Facts) -> str:
    metrics = facts.metrics
    parts = ["### Course\n"]
    if facts.has_picture:
        parts.append(f"![Training loss and learning rate over the steps]({TRAINING}/{PICTURE})\n")
    epochs = metrics.get("history", {}).get("epochs", [])
    if epochs:
        best = max(epoch["step"] for epoch in epochs if epoch["saved"])  # an epoch may be scored several times
        rows = [
            (
                str(epoch["epoch"]),
                f"{epoch['step']:,}",
                "" if epoch["loss"] is None else f"{epoch['loss']:.3f}",
                f"{epoch['exact_match']:.2f}",
                f"{epoch['f1']:.2f}",
                "this model" if epoch["step"] == best else "",
            )
            for epoch in epochs
        ]
        parts.append(_table(("epoch", "step", "validation loss", "exact match", "F1", ""), rows))
    took = metrics.get("seconds", {}).get("all")
    rate = metrics.get("features_per_second")
    told = [f"{metrics.get('devices', 1)} device(s), Keras on {metrics.get('backend', 'an unknown backend')}"]
    if took:
        told.append(f"{took / 60:.1f} minutes with validation in the last sitting")
    if rate:
        told.append(f"{rate:.1f} windows a second in training")
    parts.append("; ".join(told) + ".\n")
    return "\n".join(parts)


def _checksums(data: Mapping[str, Any]) -> str:
    rows = [(f"source {name}", f"`{value}`") for name, value in data["files"].items()]
    rows += [
        (f"shard {split}/{file['file']}", f"`{file[CHECKSUM]}` ({CHECKSUM})")
        for split, about in data["splits"].items()
        for file in about.get("shards", [])
    ]
    rows.append(("tokenizer", f"`{data['tokenizer_hash']}`"))
    table = _table(("file", "SHA-256, or as said"), rows)
    return f"### Checksums\n\nOf the data, featurized by qa-fast {data['qa_fast_version']}.\n\n{table}"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar or a line break in a cell does not break it."""
    head = list(header)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _option(value: Any) -> str:
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)
