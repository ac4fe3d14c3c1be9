"""The text of a model card, section by section. Tests extract its snippets and run them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qa_fast.hub.facts import PICTURE, TRAINING, Facts, Score
from qa_fast.model.families import FAMILIES
from qa_fast.scoring.rules import SQUAD
from qa_fast.shards import CHECKSUM

# Stands for the name of the repository until `push` knows it.
PLACEHOLDER = "ORG/NAME"

_TRANSFORMERS = """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("ORG/NAME")
model = AutoModelForQuestionAnswering.from_pretrained("ORG/NAME").eval()

question = "When was the lighthouse lit?"
context = "The lighthouse on the point was first lit in 1868. Its keeper kept bees as well."
inputs = tokenizer(question, context, truncation="only_second", max_length={max_length},
                   return_offsets_mapping=True, return_tensors="pt")
offsets = inputs.pop("offset_mapping")[0].tolist()
with torch.no_grad():
    output = model(**inputs)

# The best pair of a start and an end at most {max_answer_len} tokens apart, both in the context.
outside = torch.tensor([part != 1 for part in inputs.sequence_ids(0)])
start_logits = output.start_logits[0].masked_fill(outside, float("-inf"))
end_logits = output.end_logits[0].masked_fill(outside, float("-inf"))
scores = start_logits[:, None] + end_logits[None, :]
allowed = torch.ones_like(scores).triu().tril({max_answer_len} - 1).bool()
scores = scores.masked_fill(~allowed, float("-inf"))
start, end = divmod(scores.argmax().item(), len(scores))
{result}
"""

_SPAN = "print(context[offsets[start][0]:offsets[end][1]])"
_SPAN_OR_NONE = """\

# No answer, if its score exceeds that of the best pair by more than the threshold.
cls = inputs.input_ids[0].tolist().index(tokenizer.cls_token_id)
null = (output.start_logits[0, cls] + output.end_logits[0, cls]).item()
is_empty = null - scores.max().item() > {null_threshold!r}
print("" if is_empty else context[offsets[start][0]:offsets[end][1]])"""

_QA_FAST = """\
from qa_fast import Answerer

answerer = Answerer.from_pretrained("ORG/NAME")
print(answerer(
    question="When was the lighthouse lit?",
    context="The lighthouse on the point was first lit in 1868. Its keeper kept bees as well.",
))  # {"score": ..., "start": ..., "end": ..., "answer": ...}
"""

# Options that decide where and how often files are written, and not what is trained.
_LEFT_OUT = ("model", "out", "resume", "overwrite", "checkpoint_every", "log_every")

_LIMITS = """\
## Intended use and limits

The model finds the place where a text answers a question, in texts like those that it was trained on. It does not \
generate text, uses no knowledge beyond the given text, does not combine several places into one answer, and does not \
check whether the text is true. It returns a span even if the text holds no answer, unless it was trained on \
unanswerable questions and is allowed to return no answer. Scores can be much lower on other subjects, styles and \
languages. Biases against people and groups were not studied.
"""

_LICENSE = """\
## License

The publisher of this model chooses its license and names it as `license` at the top of this file. Without this entry, \
no license is granted. The base model and the training data have their own terms.
"""


def body(facts: Facts) -> str:
    """Return all sections."""
    return "\n".join([_opening(facts), _results(facts), _usage(facts), _LIMITS, _training(facts), _LICENSE])


def _opening(facts: Facts) -> str:
    base, data = facts.base_model, facts.data
    base_link = f"[{base}](https://huggingface.co/{base})" if base else "a model in a local folder"
    trained_on = data.get("name", "data that was not recorded")
    if data.get("dataset"):
        trained_on = f"[{trained_on}](https://huggingface.co/datasets/{data['dataset']})"
    others = [f"{part['name']} (weight {part['weight']:g})" for part in facts.metrics.get("mix", [])[1:]]
    trained_on += f" together with {' and '.join(others)}" if others else ""
    kind = facts.config.get("model_type")
    family = FAMILIES[kind].name if kind in FAMILIES else str(kind)
    size = f", {facts.parameters / 1e6:,.1f} million parameters" if facts.parameters else ""
    title = f"{base.split('/')[-1]}, trained to answer questions" if base else "A model that answers questions"
    return f"""\
# {title}

Given a question and a text, this model finds the span of the text that answers the question. It is based on \
{base_link} and was fine-tuned on {trained_on} with qa-fast. {family} encoder{size}; weights in float32.
"""


def _usage(facts: Facts) -> str:
    own = facts.answering
    max_length = own.max_seq_len or int(facts.data.get("features", {}).get("max_length", 384))
    result, no_answer = _SPAN, "The answer is always a span of the text."
    if own.handle_impossible_answer:
        result = _SPAN_OR_NONE.format(null_threshold=own.null_threshold)
        no_answer = (
            "The answer is empty if the score of no answer exceeds that of the best span by more than "
            f"{own.null_threshold:g} logits."
        )
    snippet = _TRANSFORMERS.format(max_length=max_length, max_answer_len=own.max_answer_len, result=result)
    return f"""\
## Use

With transformers (and torch), for a text that fits into {max_length} tokens:

```python
{snippet}```

With qa-fast (`pip install 'qa-fast[answer]'`), for texts of any length, which are read in overlapping windows:

```python
{_QA_FAST}```

On the command line:

```sh
qa-fast answer ORG/NAME --question "When was the lighthouse lit?" --context-file text.txt
```

By default, answers have up to {own.max_answer_len} tokens. {no_answer}
"""


def _results(facts: Facts) -> str:
    if not facts.scores:
        return f"## Results\n\nThe model was not scored, because there was no split for it.\n\n{_confidence(facts)}"
    rows = [
        (score.data["name"], score.split, questions(score), f"{score.exact_match:.2f}", f"{score.f1:.2f}")
        for score in facts.scores
    ]
    notes = ["Exact match and F1 are the official SQuAD metrics, in percent."]
    if any(score.questions < score.of for score in facts.scores):
        seeds = sorted({score.seed for score in facts.scores if score.questions < score.of})
        notes.append(f"Questions that are not all of a split are a random sample (seed {_listed(seeds)}).")
    precisions = sorted({score.precision for score in facts.scores if score.precision})
    if precisions:
        notes.append(f"Measured in {_listed(precisions)}.")
    if any(score.chose for score in facts.scores):
        split = next(score.split for score in facts.scores if score.chose)
        notes.append(
            f"The saved epoch is the one with the best F1 on {split}, so this score is slightly optimistic. A split "
            "that did not choose the epoch would be a fairer test."
        )
    trained_on = [score.split for score in facts.scores if _is_train(score, facts)]
    if trained_on:
        notes.append(
            f"The model was trained on files of {_listed(trained_on)}, so that score says little about other texts."
        )
    table = _table(("data", "split", "questions", "exact match", "F1"), rows)
    return f"## Results\n\n{table}\n{' '.join(notes)}\n\n{_confidence(facts)}"


def _confidence(facts: Facts) -> str:
    """Return what the score of an answer means."""
    calibration = facts.answering.calibration
    if calibration is None:
        return "The model is not calibrated: `score` orders answers, and is not the probability that one is right.\n"
    return (
        f"The `score` of an answer is the probability that it is right. It was {calibration.origin}. On questions "
        f"about other documents of this split, the expected calibration error was {calibration.error:.4f}, and "
        f"{calibration.error_before:.4f} without calibration. It can be larger on other subjects, styles and "
        "languages.\n"
    )


def _is_train(score: Score, facts: Facts) -> bool:
    """Return whether a file of the scored split is identical to a file of the training split."""
    train = {value for name, value in facts.data.get("files", {}).items() if name.startswith("train/")}
    files = score.data["files"].items()
    return any(value in train for name, value in files if name.startswith(f"{score.split}/"))


def questions(score: Score) -> str:
    """Return how many questions of a split were scored, in words."""
    return f"all {score.of:,}" if score.questions >= score.of else f"{score.questions:,} of {score.of:,}"


def _training(facts: Facts) -> str:
    metrics, data = facts.metrics, facts.data
    parts = ["## Training\n"]
    if data:
        parts.append(_data(facts))
    options = {name: value for name, value in metrics.get("config", {}).items() if name not in _LEFT_OUT}
    measured = {name: metrics[name] for name in ("precision", "jit") if name in metrics}
    rows = [(name.replace("_", " "), _option(value)) for name, value in options.items() if name not in measured]
    rows += [(name, f"{choice['value']} ({choice['reason']})") for name, choice in measured.items()]
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
    table = _table(("split", "questions", "windows", "windows without an answer", "rejected", "tokens"), rows)
    limit = metrics.get("config", {}).get("max_examples")
    is_sample = limit is not None and limit < data["splits"].get("train", {}).get("examples", 0)
    used = f"a random sample of {limit:,} questions" if is_sample else "all questions"
    if limit is not None and len(metrics.get("mix", [])) > 1:  # the sample is taken from all folders together
        used = f"a random sample of at most {limit:,} questions, which includes those of the other folders,"
    return f"""\
### Data

{table}
A text is cut into windows of up to {windows["max_length"]} tokens, including the question. Neighbouring windows share \
{windows["doc_stride"]} tokens. Labels: `{windows["labels"]}`. The model was trained on {used} of train, which are \
{metrics.get("features", 0):,} windows and {metrics.get("tokens", 0):,} tokens per epoch.
"""


def _course(facts: Facts) -> str:
    metrics = facts.metrics
    parts = ["### Course\n"]
    if facts.has_picture:
        parts.append(f"![Training loss and learning rate over the steps]({TRAINING}/{PICTURE})\n")
    epochs = metrics.get("history", {}).get("epochs", [])
    if epochs:
        saved_step = max(epoch["step"] for epoch in epochs if epoch["saved"])  # an epoch may be scored several times
        rows = [
            (
                str(epoch["epoch"]),
                f"{epoch['step']:,}",
                "" if epoch["loss"] is None else f"{epoch['loss']:.3f}",
                f"{epoch['exact_match']:.2f}",
                f"{epoch['f1']:.2f}",
                "this model" if epoch["step"] == saved_step else "",
            )
            for epoch in epochs
        ]
        parts.append(_table(("epoch", "step", "validation loss", "exact match", "F1", ""), rows))
        metric = epochs[-1].get("metric", SQUAD)
        if metric != SQUAD:
            parts.append(f"Exact match and F1 in this table are by the metric `{metric}` of qa-fast.\n")
    seconds = metrics.get("seconds", {}).get("all")
    rate = metrics.get("features_per_second")
    speed = [f"{metrics.get('devices', 1)} device(s), Keras on {metrics.get('backend', 'an unknown backend')}"]
    if seconds:
        speed.append(f"{seconds / 60:.1f} minutes with validation since the run was started or last resumed")
    if rate:
        speed.append(f"{rate:.1f} windows per second in training")
    parts.append("; ".join(speed) + ".\n")
    return "\n".join(parts)


def _checksums(data: Mapping[str, Any]) -> str:
    rows = [(f"source {name}", f"`{value}`") for name, value in data["files"].items()]
    rows += [
        (f"shard {split}/{file['file']}", f"`{file[CHECKSUM]}` ({CHECKSUM})")
        for split, counts in data["splits"].items()
        for file in counts.get("shards", [])
    ]
    rows.append(("tokenizer", f"`{data['tokenizer_hash']}`"))
    table = _table(("file", "SHA-256 (or the named checksum)"), rows)
    return f"### Checksums\n\nChecksums of the data, featurized by qa-fast {data['qa_fast_version']}.\n\n{table}"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table. Bars and line breaks in cells are escaped."""
    head = list(header)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _option(value: Any) -> str:
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)
