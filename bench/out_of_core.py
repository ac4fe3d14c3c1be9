"""Measures time and memory of `qa-fast featurize`, while it runs, on a nested JSON file of millions of questions.

    python bench/out_of_core.py [EXAMPLES ...] [--workers N] [--folder DIR]

The questions are generated. The corpus has SQuAD's shape (articles of forty paragraphs of some 120 words, five
questions each, all with an answer), and its vocabulary keeps growing: words follow Zipf's law, and each paragraph has
some of its own. The resident memory of the process and the number of finished shards are recorded four times a second.
If time is linear and memory flat, the quarters of a run take equal times and have equal peaks, and so have runs of
different sizes.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import common
import orjson
import psutil

_PARAGRAPHS, _QUESTIONS = 40, 5
_CONSONANTS, _VOWELS = "bcdfghklmnprstvw", "aeiou"


def write_corpus(path: Path, examples: int, seed: int = 0) -> None:
    """So many questions as one document of nested SQuAD JSON, an article at a time."""
    chance = random.Random(seed)
    words = [_word(chance) for _ in range(60_000)]
    common_words = chance.choices(words, weights=[1 / (rank + 3) for rank in range(len(words))], k=1_000_000)
    sentences = []
    for at in range(0, len(common_words) - 14, 14):
        sentences.append(" ".join(common_words[at : at + 14]).capitalize() + ".")
    made = paragraph_number = 0
    with path.open("wb") as file:
        file.write(b'{"version": "made up", "data": [')
        while made < examples:
            paragraphs = []
            for _ in range(_PARAGRAPHS):
                if made >= examples:
                    break
                chosen = chance.choices(sentences, k=8)
                rare = [f"{_word(chance)}{paragraph_number}" for _ in range(3)]
                context = f"{' '.join(chosen)} {' '.join(rare)}."
                questions, start = [], 0
                for number in range(min(_QUESTIONS, examples - made)):
                    answer = " ".join(chosen[number].split(" ", 3)[:2])
                    asked = " ".join(chance.choices(common_words, k=9))
                    questions.append(
                        {
                            "id": f"{paragraph_number:x}-{number}",
                            "question": f"What {asked} {rare[0]}?",
                            "answers": [{"text": answer, "answer_start": start}],
                        }
                    )
                    start += len(chosen[number]) + 1
                made += len(questions)
                paragraph_number += 1
                paragraphs.append({"context": context, "qas": questions})
            article = {"title": f"Article {paragraph_number}", "paragraphs": paragraphs}
            file.write(orjson.dumps(article) + (b"," if made < examples else b""))
        file.write(b"]}")


def _word(chance: random.Random) -> str:
    return "".join(chance.choice(_CONSONANTS) + chance.choice(_VOWELS) for _ in range(chance.randint(1, 4)))


def watched(command: list[str], out: Path) -> list[tuple[float, int, float]]:
    """Run a command; seconds, shards finished and megabytes resident, again and again until it ends."""
    began, seen = time.monotonic(), []
    process = subprocess.Popen(command)
    handle = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            resident = handle.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            break
        seen.append((time.monotonic() - began, len(list(out.glob("train/data-*.arrow"))), resident))
        time.sleep(0.25)
    if process.wait():
        sys.exit("featurize failed")
    seen.append((time.monotonic() - began, len(list(out.glob("train/data-*.arrow"))), seen[-1][2]))
    return seen


def main() -> None:
    """Make, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", type=int, nargs="*", default=[2_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the corpus and the shards are written")
    options = parser.parse_args()
    rows, quarters = [], []
    for examples in options.examples:
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            source, out = Path(scratch) / "train.json", Path(scratch) / "out"
            write_corpus(source, examples)
            command = [sys.executable, "-m", "qa_fast.cli", "featurize", str(source), "--out", str(out), "--quiet"]
            common.whole_process([*command, "--max-examples", "1000", "--overwrite"])
            seen = watched([*command, "--workers", str(options.workers), "--overwrite"], out)
            seconds, shards, _ = seen[-1]
            peak = max(resident for _, _, resident in seen)
            size = source.stat().st_size / 1e9
            made = sum(path.stat().st_size for path in out.glob("train/*.arrow")) / 1e9
            rows.append(
                (f"{examples:,}", f"{size:.2f}", f"{made:.2f}", f"{shards}", f"{seconds:.0f}",
                 f"{examples / seconds:,.0f}", f"{peak:.0f}")
            )  # fmt: skip
            ends = [next(moment for moment, done, _ in seen if done >= shards * part // 4) for part in range(1, 5)]
            for number, (begin, end) in enumerate(pairwise([0.0, *ends[:3], seconds]), 1):
                inside = [resident for moment, _, resident in seen if begin <= moment <= end]
                quarters.append((f"{examples:,}", f"{number}", f"{end - begin:.0f}", f"{max(inside):.0f}"))
    heads = ("examples", "source, GB", "shards, GB", "shards", "seconds", "examples/s", "peak, MB")
    common.print_table(common.machine(), heads, rows)
    common.print_table("by quarters of the shards", ("examples", "quarter", "seconds", "peak, MB"), quarters)


if __name__ == "__main__":
    main()
