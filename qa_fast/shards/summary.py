"""A summary of shards from their index: counts of the splits, and the table that notebooks show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qa_fast.html.elements import facts, heading, table
from qa_fast.html.page import fragment
from qa_fast.shards.format import TRAIN

# Share of unknown tokens that is not remarked on; names and symbols in a language that the tokenizer knows make less.
_MOST_UNKNOWN = 0.1
# Share of windows without their answer that is not remarked on.
_MOST_WITHOUT_ANSWER = 0.5


def with_share(part: int, whole: int) -> str:
    """Return a count and its share of the whole."""
    return f"{part:,} ({100 * part / whole:.3g} %)" if whole else f"{part:,}"


def index_counts(split: dict[str, Any]) -> dict[str, Any]:
    """Return the counts of a split by name, from the index of shards."""
    return {
        "examples": split["examples"],
        "rejected": split["rejected"],
        "repaired": split["repaired"],
        **({"kept for scoring only": split["unplaced"]} if split.get("unplaced") else {}),
        "windows": split["features"],
        "windows without an answer": with_share(split["impossible"], split["features"]),
        "tokens": split["tokens"],
        **(
            {"unknown tokens": with_share(split["unknown_tokens"], split["text_tokens"])}
            if "text_tokens" in split
            else {}
        ),
        "labels that differ from the reference": sum(split["differences"].values()),
    }


def remarks(index: Mapping[str, Any], out: Path) -> Iterator[str]:
    """Yield what a user should know about the data of shards, a line each.

    Args:
        index: The index of the shards.
        out: Their folder.
    """
    for split, counts in index["splits"].items():
        if counts.get("rejected"):
            yield (
                f"{split}: {with_share(counts['rejected'], counts['rejected'] + counts['examples'])} of the questions "
                f"were rejected; see why with: qa-fast show {out} --rejected"
            )
        if counts.get("repaired"):
            causes = ", ".join(f"{cause} {count:,}" for cause, count in counts.get("repairs", {}).items())
            yield (
                f"{split}: {counts['repaired']:,} answers were not at their answer_start and were repaired ({causes}); "
                f"see them with: qa-fast show {out} --repaired"
            )
        if counts.get("unplaced"):
            yield (
                f"{split}: {counts['unplaced']:,} answers have no certain place; their questions are kept for scoring "
                f"and labelled without an answer; see them with: qa-fast show {out} --repaired"
            )
        if counts.get("several"):
            yield f"{split}: all answers of {counts['several']:,} questions with several distinct ones are labelled"
        if counts.get("misplaced"):
            yield (
                f"{split}: {counts['misplaced']:,} answers after the first ones are not at their answer_start and were "
                "left out; a window that holds only such an answer is labelled without one: correct the source"
            )
        if split == TRAIN and counts.get("unanswerable") == counts["examples"]:
            yield f"{split}: no question has an answer, so a model cannot learn to find one; check the column answers"
        if split == TRAIN and not index["config"].get("drop_impossible"):
            # Windows of questions with an answer, if they have as many as others, less those that hold the answer.
            answered = counts["features"] * (1 - counts.get("unanswerable", 0) / max(counts["examples"], 1))
            yield from drop_hint(answered - counts["features"] + counts["impossible"], counts["features"])
        unknown = counts.get("unknown_tokens", 0) / max(counts.get("text_tokens", 0), 1)
        if unknown > _MOST_UNKNOWN:
            yield (
                f"{split}: {unknown:.0%} of the tokens of the texts are unknown to the tokenizer, so a model does not "
                "see them; choose a --model for the language of the data"
            )


def drop_hint(lacking: float, windows: int) -> Iterator[str]:
    """Yield a remark on a train split of long documents, few of whose windows hold an answer.

    Args:
        lacking: About the number of windows that do not hold the answer of their question, which has one.
        windows: Number of all windows.
    """
    if windows and lacking / windows > _MOST_WITHOUT_ANSWER:
        yield (
            f"{TRAIN}: about {lacking / windows:.0%} of the windows do not hold the answer of their question; "
            "featurize --drop-impossible leaves them out of training, so that an epoch is shorter"
        )


def train_first(splits: Iterable[str]) -> list[str]:
    """Return names of splits with train first, so that texts shared with it are counted for the others."""
    return sorted(splits, key=lambda split: split != TRAIN)


def count_rows(counts: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """Return the counts of several splits as rows: the name, and the count of each split or ""."""
    names = dict.fromkeys(name for split in counts.values() for name in split)
    return [[name, *(split.get(name, "") for split in counts.values())] for name in names]


def shards_html(name: str, manifest: Mapping[str, Any]) -> str:
    """Return a summary of a folder of shards from its index: origin, options and counts of its splits."""
    config, source = manifest["config"], manifest["source"]
    counts = {split: index_counts(manifest["splits"][split]) for split in train_first(manifest["splits"])}
    return fragment(
        heading(name, 3),
        facts(
            {
                "source": str(source.get("origin", source.get("name", ""))),
                "tokenizer": str(manifest["model"]["name"]),
                "windows": f"up to {config['max_length']} tokens, overlap {config['doc_stride']}",
                "labels": str(config["labels"]),
            }
        ),
        table(["", *counts], count_rows(counts), numeric=range(1, 1 + len(counts))),
    )
