"""Answering in processes that are forked after a model was used: answers, or a refusal, and an end in any case."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import qa_fast
from qa_fast.encode import load_encoder
from qa_fast.errors import UserError
from tests.processes import elsewhere
from tests.small_runs import authored_examples, make_model_folder
from tests.tokenizers_for_tests import save_folder, small_tokenizer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

ENGINES = ["onnx", "openvino"]
ROWS = [{"question": row["question"], "context": row["context"]} for row in authored_examples(3)]
SECONDS = 120  # a child that takes longer is ended, and its exit status tells


def in_child(work: Callable[[], object]) -> int:
    """Return the exit status of a forked process: 0 if the work returned something true."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        sys.exit(not work())
    return os.waitpid(child, 0)[1]


def asked(folder: str, engine: str) -> Callable[[], list[str]]:
    answerer = qa_fast.Answerer.from_pretrained(folder, "float32", engine)
    return lambda: [answer["answer"] for answer in answerer(ROWS)]


def forked(folder: str, engine: str) -> list[int]:
    """Fork after a first use, then while another thread is reading."""
    ask = asked(folder, engine)
    expected, stop = ask(), threading.Event()
    statuses = [in_child(lambda: ask() == expected)]

    def read() -> None:
        while not stop.is_set():
            ask()

    reader = threading.Thread(target=read)
    reader.start()
    statuses += [in_child(lambda: ask() == expected) for _ in range(3)]
    stop.set()
    reader.join()
    return [*statuses, ask() != expected]


def mapped(folder: str, engine: str) -> list[bool]:
    """Answer in the processes of a pool, and in those of `Dataset.map`, which receive the answerer as a pickle."""
    import multiprocessing

    import datasets

    ask = asked(folder, engine)
    expected = ask()
    signal.alarm(SECONDS)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = [result.get() for result in [pool.apply_async(pickle.loads(pickle.dumps(Asking(folder, engine))))] * 2]
    rows = datasets.Dataset.from_list(ROWS)
    answerer = qa_fast.Answerer.from_pretrained(folder, "float32", engine)
    done = rows.map(lambda row: {"answer": answerer(**row)["answer"]}, num_proc=2)
    return [*(one == expected for one in found), list(done["answer"]) == expected]


class Asking:
    """A task of a pool that carries an answerer."""

    def __init__(self, folder: str, engine: str) -> None:
        self.answerer = qa_fast.Answerer.from_pretrained(folder, "float32", engine)
        self.answerer(ROWS)

    def __call__(self) -> list[str]:
        return [answer["answer"] for answer in self.answerer(ROWS)]


def refused(folder: str) -> list[str]:
    """Return what a child says that reads with Keras, and one that opens an engine anew."""
    ask = asked(folder, "keras")
    ask()
    told = []
    for work in (ask, lambda: asked(folder, "keras")):
        reading, writing = os.pipe()

        def say(work: Callable[[], object] = work, writing: int = writing) -> bool:
            try:
                work()
            except UserError as error:
                os.write(writing, str(error).encode())
            os._exit(0)

        assert in_child(say) == 0
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told.append(pipe.read())
    return told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "bert")


def run(function: str, *arguments: str) -> object:
    given = ", ".join(map(repr, arguments))
    return elsewhere(__name__, f"print(json.dumps(t.{function}({given})))", HF_DATASETS_DISABLE_PROGRESS_BARS="1")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_forked_process_answers_and_ends(engine: str, folder: Path) -> None:
    pytest.importorskip("openvino" if engine == "openvino" else "onnxruntime")
    assert run("forked", str(folder), engine) == [0, 0, 0, 0, False]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_pools_and_datasets_answer(engine: str, folder: Path) -> None:
    pytest.importorskip("openvino" if engine == "openvino" else "onnxruntime")
    pytest.importorskip("datasets")
    assert run("mapped", str(folder), engine) == [True, True, True]


@pytest.mark.slow
def test_keras_is_refused_in_a_forked_process(folder: Path) -> None:
    told = run("refused", str(folder))
    assert isinstance(told, list)
    for line in told:
        assert line.startswith("Keras must be loaded in the process that computes with it; this one was forked from")
        assert "\n" not in line


def test_an_engine_of_keras_is_not_sent(folder: Path) -> None:
    answerer = qa_fast.Answerer.from_pretrained(folder, "float32", "keras")
    with pytest.raises(UserError, match=r"must be onnx or openvino; received keras: open the model with one"):
        pickle.dumps(answerer)


def encoded(folder: str) -> int:
    """Fork while another thread holds the encoder's locks."""
    encoder = load_encoder(Path(folder))
    texts = pa.array([row["context"] for row in ROWS])
    expected = encoder.encode(texts).ids.tolist()
    locks = [encoder.way._lock, encoder.way._words._lock]
    holder = threading.Thread(target=lambda: [lock.acquire() for lock in locks])
    holder.start()
    holder.join()
    return in_child(lambda: encoder.encode(texts).ids.tolist() == expected)


def test_a_lock_of_another_thread_is_not_waited_for(tmp_path: Path) -> None:
    save_folder(small_tokenizer("wordpiece"), tmp_path)
    assert elsewhere(__name__, f"print(json.dumps(t.encoded({str(tmp_path)!r})))") == 0
