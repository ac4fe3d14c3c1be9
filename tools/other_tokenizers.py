"""Compare encoding under another version of the tokenizers library with encoding under the installed one.

    python tools/other_tokenizers.py "tokenizers>=1.0.0rc3"

The other version is installed in a temporary environment without transformers, which takes no other. Texts are encoded
there and here by small tokenizers of every kind of the tests. Each text must get the same tokens and offsets, or be
refused because the version gives no offsets. The sentences that the tokenizers were trained on must not be refused, and
the shards that are made of them must be equal. So must the answers of small models of random weights in ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

import pyarrow as pa
import tokenizers

from qa_fast.answer.answerer import Answerer
from qa_fast.builder.job import build_shards
from qa_fast.encode import load_encoder
from qa_fast.encode.encoder import TextEncoder
from qa_fast.errors import UserError

PROJECT = Path(__file__).parents[1]
# Kinds that the version may refuse as a whole: 1.0.0rc3 has no byte-level tokenizers that add a space.
UNREAD = ("byte-level-prefix-space", "byte-level-prefix-space-untrimmed")
# Families whose models answer.
FAMILIES = ("bert", "roberta", "xlm-roberta")


def main(requirement: str) -> int:
    """Compare with a version of the library; return 0 if all is well."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["answer"]]
    others = [package for package in needed if not package.startswith(("tokenizers", "transformers"))]
    with tempfile.TemporaryDirectory() as name:
        known, environment = Path(name) / "known", Path(name) / "environment"
        record(known)
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", requirement, *others], check=True)
        variables = os.environ | {"PYTHONPATH": str(PROJECT)}
        return subprocess.run([python, __file__, "--check", str(known)], env=variables, check=False).returncode


def record(folder: Path) -> None:
    """Write tokenizers, texts and tokens."""
    sys.path.insert(0, str(PROJECT))
    from tests.made_up import PIECES
    from tests.small_runs import make_model_folder
    from tests.tokenizers_for_tests import CORPUS, KINDS, save_folder, small_tokenizer

    folder.mkdir(parents=True)
    sentences = list(dict.fromkeys(CORPUS))
    texts = list(dict.fromkeys([*sentences, *(left + right for left in PIECES for right in PIECES)]))
    known = {
        "version": tokenizers.__version__,
        "sentences": sentences,
        "texts": texts,
        "tokens": {},
        "shards": {},
        "answers": {},
    }
    for kind in KINDS:
        encoder = load_encoder(save_folder(small_tokenizer(kind), folder / kind), mode="words")
        known["tokens"][kind] = [tokens_of(encoder, text) for text in texts]
        known["shards"][kind] = checksum_of_shards(sentences, folder / kind)
    for family in FAMILIES:
        known["answers"][family] = answers_of(make_model_folder(folder / "models" / family, family), sentences)
    (folder / "known.json").write_text(json.dumps(known))


def check(folder: Path) -> int:
    """Encode the texts anew and compare; return 0 if all is well."""
    known = json.loads((folder / "known.json").read_text())
    print(f"tokenizers {tokenizers.__version__} against {known['version']}, {len(known['texts'])} texts of each kind")
    failed = False
    for kind, expected in known["tokens"].items():
        try:
            encoder = load_encoder(folder / kind, mode="words")
        except UserError as error:
            failed |= kind not in UNREAD
            print(f"{kind}: {error}")
            continue
        wrong, refused = [], []
        for text, tokens in zip(known["texts"], expected, strict=True):
            try:
                if tokens_of(encoder, text) != tokens:
                    wrong.append(text)
            except UserError:
                refused.append(text)
        equal = checksum_of_shards(known["sentences"], folder / kind) == known["shards"][kind]
        failed |= bool(wrong) or not equal or not set(refused).isdisjoint(known["sentences"])
        shards = "equal" if equal else "different"
        print(f"{kind}: {len(refused)} refused, {len(wrong)} wrong {wrong[:3] or ''}; shards {shards}")
    for family, answers in known["answers"].items():
        equal = answers_of(folder / "models" / family, known["sentences"]) == answers
        failed |= not equal
        print(f"{family}: {len(answers)} answers {'equal' if equal else 'different'}")
    return int(failed)


def tokens_of(encoder: TextEncoder, text: str) -> list[list[int]]:
    """Return ids, starts and ends of a text's tokens."""
    encoded = encoder.encode(pa.array([text]))
    return [encoded.ids.tolist(), encoded.char_start.tolist(), encoded.char_end.tolist()]


def answers_of(model: Path, sentences: list[str]) -> list[list[str | int | float]]:
    """Return a model's answers to a question about each sentence: texts, starts and scores."""
    answerer = Answerer.from_pretrained(model, "float32", "onnx")
    answers = [answerer("Who paid for the harbour?", sentence) for sentence in sentences]
    return [[answer["answer"], answer["start"], answer["score"]] for answer in answers]


def checksum_of_shards(sentences: list[str], model: Path) -> str:
    """Return the checksum of the shards that are made of the sentences."""
    rows = [
        {"id": str(i), "context": text, "question": text, "answers": {"text": [text[:3]], "answer_start": [0]}}
        for i, text in enumerate(sentences)
    ]
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "train.jsonl", Path(name) / "shards"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        build_shards(str(source), out, str(model))
        return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(out.rglob("*.arrow")))).hexdigest()


if __name__ == "__main__":
    sys.exit(check(Path(sys.argv[2])) if sys.argv[1] == "--check" else main(sys.argv[1]))
