"""Check an installed qa-fast without the checkout: package data, the command, featurizing and, with keras, answering.

    python tools/smoke.py

Runs in a temporary folder with the `qa-fast` of the interpreter that runs it. Only the installed package and its
dependencies are used: the tokenizer, the examples and the random model are made here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

CONTEXT = "The harbour of Lindholm was dug in 1874. Ane Skou, a widow, paid for it."
QUESTIONS = {"When was the harbour dug?": "1874", "Who paid for it?": "Ane Skou"}
CONFIG = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
}


def make_tokenizer(folder: Path) -> None:
    """Write a WordPiece tokenizer of single characters, and the configuration of an encoder for it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = sorted(set((CONTEXT + "".join(QUESTIONS)).lower()) - {" "})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": len(tokens)}))


def make_source(folder: Path) -> None:
    """Write a split of the sample questions as JSON lines."""
    folder.mkdir()
    with (folder / "train.jsonl").open("w") as file:
        for number, (question, answer) in enumerate(QUESTIONS.items()):
            answers = {"text": [answer], "answer_start": [CONTEXT.index(answer)]}
            row = {"id": str(number), "context": CONTEXT, "question": question, "answers": answers}
            file.write(json.dumps(row) + "\n")


def command(folder: Path, *words: str) -> str:
    """Run `qa-fast` in the folder and return its standard output."""
    program = Path(sys.executable).with_name("qa-fast")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run([program, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"qa-fast {' '.join(words)} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    print(f"ok: qa-fast {words[0]}")
    return run.stdout


def check_package() -> None:
    """Check where the package was imported from, and that its data files were installed."""
    import qa_fast

    place = Path(qa_fast.__file__).resolve()
    if not place.is_relative_to(Path(sys.prefix).resolve()):
        sys.exit(f"qa_fast must be imported from the environment {sys.prefix}; it is at {place}")
    for name in ("py.typed", "serve/static/index.html", "serve/static/page.js", "serve/static/example.txt"):
        if not resources.files("qa_fast").joinpath(name).is_file():
            sys.exit(f"the installed package must hold {name}, which is missing")
    print(f"ok: qa_fast {qa_fast.__version__} at {place.parent}")


def main() -> None:
    """Run all checks; the first that fails ends the program with a message."""
    check_package()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command(folder, "--help")
        make_tokenizer(folder / "encoder")
        make_source(folder / "source")
        command(
            folder,
            *("featurize", "source", "--out", "shards", "--model", "encoder", "--max-length", "64"),
            *("--doc-stride", "16"),
        )
        if not (folder / "shards" / "qa_fast.json").is_file():
            sys.exit("featurize must write shards/qa_fast.json, which is missing")
        if importlib.util.find_spec("keras") is None:
            print("skipped: answering needs the extra `answer`")
            return
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        from qa_fast.model.checkpoint import save_model
        from qa_fast.model.encoder import EncoderModel
        from qa_fast.model.families import read_encoder_config

        model = EncoderModel(read_encoder_config(json.loads((folder / "encoder" / "config.json").read_text())))
        model.initialize(1)
        save_model(model, folder / "model", folder / "encoder")
        question = next(iter(QUESTIONS))
        print(command(folder, "answer", "model", "--question", question, "--context", CONTEXT).strip())


if __name__ == "__main__":
    main()
