"""Runs of several processes on JAX: the same weights as one, one end for all, one clear error."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from qa_fast.batches import BatchCutter, training_plan
from qa_fast.errors import UserError
from qa_fast.model.families import read_encoder_config
from qa_fast.train import JobConfig
from qa_fast.train.setup import check_same
from qa_fast.train.state import checkpoints, read_checkpoint
from tests.backend import BACKEND
from tests.job_runs import Ended, command, ended, free_port, program, start
from tests.small_models import make_features
from tests.small_runs import make_model_folder, make_shards

pytestmark = pytest.mark.cluster


def setup_module() -> None:
    pytest.importorskip("jax")


# All dropouts are on, with the tiny model's own rates. One width: every other one is compiled in every process.
# Adam blows the rounding of small gradients up to shares of the learning rate.
OPTIONS = [
    "--batch-size",
    "5",
    "--precision",
    "float32",
    "--learning-rate",
    "1e-4",
    "--epochs",
    "2",
    "--batching",
    "fixed",
    "--json",
]
# A shift of all scores moves no probability: these get gradients of rounding alone, blown up by Adam.
ROUNDING = ("self.key.bias", "layer.1.output.LayerNorm.bias", "qa_outputs.bias")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and its shards."""
    folder = tmp_path_factory.mktemp("job")
    model = make_model_folder(folder / "tiny", head=False)
    make_shards(folder / "shards", model)
    make_shards(folder / "bare", model, validation=False)
    return folder


def job_words(number: int, port: int, processes: int = 2) -> list[str]:
    return ["--processes", str(processes), "--process-id", str(number), "--coordinator", f"127.0.0.1:{port}"]


def run_job(shards: Path, out: Path, *options: str, theirs: Path | None = None) -> list[Ended]:
    """Two processes of `qa-fast train`; only process 0 gets the folder that is examined later.

    Args:
        shards: Of both, or of process 0.
        out: Of process 0.
        options: Of both.
        theirs: Shards of process 1, if it has its own.
    """
    port = free_port()
    folders, outs = [shards, theirs or shards], [out, out.with_name(f"{out.name}-of-1")]
    processes = [
        start(command("train", str(folders[n]), "--out", str(outs[n]), *options, *job_words(n, port))) for n in (0, 1)
    ]
    results = ended(processes)
    assert not outs[1].exists()
    return results


def run_alone(shards: Path, out: Path, *options: str) -> dict:
    (result,) = ended([start(command("train", str(shards), "--out", str(out), *options))])
    assert result.code == 0, result.err
    return json.loads(result.out)


def assert_same_model(ours: Path, theirs: Path) -> None:
    first, second = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert first.keys() == second.keys()
    for name in first:
        if not name.endswith(ROUNDING):
            np.testing.assert_allclose(first[name], second[name], atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def alone(workshop: Path) -> dict:
    return run_alone(workshop / "shards", workshop / "alone", *OPTIONS)


def test_two_processes_train_as_one(workshop: Path, tmp_path: Path, alone: dict) -> None:
    """With dropout, an uneven batch (5 rows on 2 devices), a short last batch and validation.

    The devices receive three steps at a time, and at the end of an epoch two one by one.
    """
    options = [*OPTIONS, "--steps-per-execution", "3", "--checkpoint-every", "4"]
    first, second = run_job(workshop / "shards", tmp_path / "out", *options)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    metrics = json.loads(first.out)
    assert second.out == ""
    assert (metrics["processes"], metrics["devices"]) == (2, 2)
    assert (alone["processes"], alone["devices"]) == (1, 1)
    assert_same_course(metrics, alone)
    np.testing.assert_allclose(metrics["history"]["losses"], alone["history"]["losses"], atol=1e-5)
    assert_same_model(tmp_path / "out", workshop / "alone")
    config = read_encoder_config(json.loads((tmp_path / "out" / "config.json").read_text()))
    assert min(config.attention.dropout, config.attention.output_dropout, config.embedding.dropout) > 0
    assert (tmp_path / "out" / "README.md").exists()
    assert not (tmp_path / "out" / "training" / "checkpoints").exists()


def test_every_process_cuts_its_own_rows_and_each_row_once() -> None:
    lengths = np.random.default_rng(0).integers(6, 48, 23).astype(np.int32)
    cutter = BatchCutter([make_features(lengths)], 0)
    plan = training_plan(lengths, np.arange(23), 6, 1, 0, np.array([16, 32, 48], np.int32))
    shares = [plan.share(part, 3, 9) for part in range(3)]
    seen = np.concatenate([np.concatenate(share.rows) for share in shares])
    assert sorted(seen[seen >= 0]) == list(range(23))
    for number, rows in enumerate(plan.rows):
        together = np.concatenate([share.rows[number] for share in shares])
        assert [len(share.rows[number]) for share in shares] == [3, 3, 3]
        np.testing.assert_array_equal(together, [*rows, -1, -1, -1])  # the order of the whole batch
        cut = [cutter.cut(share.rows[number], int(share.widths[number])) for share in shares]
        counts = [(int((b.starts[b.rows >= 0] >= 0).sum()), int((b.ends[b.rows >= 0] >= 0).sum())) for b in cut]
        assert cutter.labels_that_count(rows) == tuple(np.sum(counts, axis=0))
    assert plan.share(0, 1, 4) is plan


STOPPING = """
import os, signal, sys
import qa_fast.train.loop as loop
from qa_fast.cli.app import run
make_micros, calls = loop.make_micros, iter(range(1, 1000))
def counted(*arguments):
    if next(calls) == {step}:
        {action}
    return make_micros(*arguments)
loop.make_micros = counted
sys.argv = {argv!r}
run()
"""


def run_job_with(shards: Path, out: Path, options: list[str], step: int, action: str, acts: int = 1) -> list[Ended]:
    """Two processes, of which one does something while it makes ready a step."""
    port = free_port()
    words = [["qa-fast", "train", str(shards), "--out", str(out), *options, *job_words(n, port)] for n in (0, 1)]
    texts = [STOPPING.format(step=step, action=action if n == acts else "pass", argv=words[n]) for n in (0, 1)]
    return ended([start(program(text)) for text in texts])


def test_one_process_goes_on_with_what_two_began(workshop: Path, tmp_path: Path, alone: dict) -> None:
    """Process 0 dies without a word in the middle of it."""
    options = [*OPTIONS, "--checkpoint-every", "3"]
    results = run_job_with(workshop / "shards", tmp_path / "out", options, 5, "os._exit(9)", acts=0)
    assert results[0].code == 9
    assert results[1].code in (2, -signal.SIGABRT)
    run_alone(workshop / "shards", tmp_path / "out", *options, "--resume")
    assert_same_model(tmp_path / "out", workshop / "alone")


def test_a_process_that_fails_does_not_leave_the_other_waiting(workshop: Path, tmp_path: Path) -> None:
    results = run_job_with(workshop / "bare", tmp_path / "out", OPTIONS, 3, "raise MemoryError('all of it')")
    assert results[1].code == 1
    assert "MemoryError: all of it" in results[1].err
    assert results[0].code in (2, -signal.SIGABRT)  # whichever is first: the broken connection, or JAX's watch
    if results[0].code == 2:
        assert "all processes of a job must run until its end; another one ended" in results[0].err


def test_an_error_of_one_before_the_first_step_is_told_to_all(workshop: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("the only copy")
    first, second = run_job(workshop / "bare", tmp_path / "full", *OPTIONS)
    assert (first.code, second.code) == (2, 2)
    assert first.err.splitlines()[-1].startswith("error: the output folder must be new or empty;")
    assert second.err.splitlines()[-1].startswith("error: process 0 of the job failed: the output folder must be new")
    port = free_port()
    moved = shutil.copytree(workshop / "bare", tmp_path / "moved")
    (moved / "qa_fast.json").unlink()
    processes = [
        start(command("train", str(shards), "--out", str(tmp_path / "out"), *OPTIONS, *job_words(number, port)))
        for number, shards in enumerate((workshop / "bare", moved))
    ]
    first, second = ended(processes)
    assert (first.code, second.code) == (2, 2)
    assert first.err.splitlines()[-1].startswith("error: process 1 of the job failed: ")
    assert "failed" not in second.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_processes_must_do_the_same(workshop: Path, tmp_path: Path) -> None:
    one = {"options": {"seed": 0, "out": "a", "teacher": None}, "data": {"features": 3}, "model": "x", "teacher": None}
    check_same([one, one | {"options": {"seed": 0, "out": "b"}}])
    with pytest.raises(UserError, match=r"same options, shards and model; process 2 differs from process 0 in seed, m"):
        check_same([one, one, one | {"options": one["options"] | {"seed": 1}, "model": "y"}])
    taught = [
        one | {"options": one["options"] | {"teacher": folder}, "teacher": weights}
        for folder, weights in (("here", "w"), ("there", "w"), ("here", "v"))
    ]
    check_same(taught[:2])  # the path of a model may differ between machines
    with pytest.raises(UserError, match=r"process 1 differs from process 0 in teacher:"):
        check_same([taught[0], taught[2]])
    headed = one | {"options": one["options"] | {"init_head": "here"}}
    with pytest.raises(UserError, match=r"process 1 differs from process 0 in init_head:"):
        check_same([one | {"options": one["options"] | {"init_head": None}}, headed])


@pytest.fixture(scope="module")
def taught(workshop: Path) -> list[str]:
    """Options that have everything at once: a mix, a teacher, scores within epochs, and patience."""
    from qa_fast.model.checkpoint import load_model, save_model

    make_shards(workshop / "own", workshop / "tiny", places=3, validation=False, several=True)
    encoder = make_model_folder(workshop / "teacher-encoder", num_hidden_layers=1)
    teacher, _ = load_model(encoder)
    head = next(variable for variable in teacher.trainable_variables if variable.path.endswith("head/output_kernel"))
    head.assign(np.random.default_rng(5).normal(0, 0.7, head.shape))
    save_model(teacher, workshop / "teacher", encoder)
    return [
        *OPTIONS,
        *("--teacher", str(workshop / "teacher"), "--epochs", "4"),
        *("--validate-every", "8", "--patience", "2", "--accumulate", "2", "--freeze", "1"),
    ]


@pytest.fixture(scope="module")
def taught_alone(workshop: Path, taught: list[str]) -> dict:
    metrics = run_alone(workshop / "shards", workshop / "taught-alone", f"{workshop / 'own'}:6.5", *taught)
    saved = [epoch["saved"] for epoch in metrics["history"]["epochs"]]
    assert metrics["steps"] == 36 or saved[-2:] == [False, False]  # four epochs, unless patience ended the run
    return metrics


def teachers(shards: Path) -> list[Path]:
    return sorted((shards / ".teachers").glob("*/part-*.f16"))


def assert_same_course(metrics: dict, alone: dict, broken_at: int = 0) -> None:
    """The same losses, and the same scores at the same steps, of which the same are saved.

    A point of the curve is a mean over ten steps, but over fewer where the run was broken off among them.
    """
    assert (metrics["steps"], metrics["best"]["step"]) == (alone["steps"], alone["best"]["step"])
    assert metrics["history"]["steps"] == alone["history"]["steps"]
    whole = -(-broken_at // 10)
    ours, theirs = (one["history"]["losses"][whole:] for one in (metrics, alone))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    ours, theirs = (
        [(epoch["step"], epoch["f1"], epoch["saved"]) for epoch in one["history"]["epochs"]] for one in (metrics, alone)
    )
    assert ours == theirs


def test_a_job_with_everything_is_as_one_process(
    workshop: Path, tmp_path: Path, taught: list[str], taught_alone: dict
) -> None:
    """Each process has shards of its own, so that only the first one has the teacher's logits beside them."""
    # Kept from before: what is measured to be fastest may be bfloat16 the next time.
    ours = shutil.copytree(workshop / "shards", tmp_path / "first")
    theirs = shutil.copytree(workshop / "shards", tmp_path / "second", ignore=shutil.ignore_patterns(".teachers"))
    own = shutil.copytree(workshop / "own", tmp_path / "own")
    first, second = run_job(ours, tmp_path / "out", f"{own}:6.5", *taught, theirs=theirs)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    metrics = json.loads(first.out)
    assert metrics["processes"] == 2
    assert [part["weight"] for part in metrics["mix"]] == [1.0, 6.5]
    assert_same_course(metrics, taught_alone)
    assert_same_model(tmp_path / "out", workshop / "taught-alone")
    assert [len(teachers(folder)) for folder in (ours, theirs, own)] == [1, 0, 1]


def test_an_interrupt_of_one_stops_all_and_a_job_with_everything_resumes(
    workshop: Path, tmp_path: Path, taught: list[str], taught_alone: dict
) -> None:
    """The job is stopped within an epoch, of nine steps, or at its end."""
    words = [f"{workshop / 'own'}:6.5", *taught, "--checkpoint-every", "0"]
    before = [path.stat().st_mtime_ns for path in teachers(workshop / "shards")]
    results = run_job_with(workshop / "shards", tmp_path / "out", words, 6, "os.kill(os.getpid(), signal.SIGINT)")
    assert [result.code for result in results] == [130, 130], results
    (found,) = checkpoints(tmp_path / "out" / "training" / "checkpoints")
    _, state = read_checkpoint(found)
    assert 6 <= state["position"]["step"] <= 9 < taught_alone["steps"]
    first, second = run_job(workshop / "shards", tmp_path / "out", *words, "--resume")
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert_same_course(json.loads(first.out), taught_alone, state["position"]["step"])
    assert_same_model(tmp_path / "out", workshop / "taught-alone")
    assert [path.stat().st_mtime_ns for path in teachers(workshop / "shards")] == before  # kept, and read by both


def test_whom_nobody_meets_gets_one_line(workshop: Path, tmp_path: Path) -> None:
    """Process 1 without process 0, and process 0 without process 1: JAX would end both with a stack of its own."""
    words = ["train", str(workshop / "bare"), "--out", str(tmp_path / "out"), "--join-timeout", "2"]
    missing = [start(command(*words, *job_words(number, free_port()))) for number in (1, 0)]
    first, second = ended(missing, 60)
    assert (first.code, second.code) == (2, 2)
    assert "error: --coordinator must be the address at which process 0 listens; nobody answered at" in first.err
    assert "error: all processes of a job must start within --join-timeout; after 2 s not all of 2" in second.err
    assert "Check failure" not in first.err + second.err


def test_auto_needs_a_cluster(workshop: Path, tmp_path: Path) -> None:
    words = ["train", str(workshop / "bare"), "--out", str(tmp_path / "out"), "--coordinator", "auto"]
    (result,) = ended([start(command(*words), TPU_SKIP_MDS_QUERY="1")], 60)
    assert result.code == 2
    assert "error: --coordinator auto needs Slurm, Open MPI, Kubernetes or a TPU pod" in result.err


@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX trains in several")
def test_other_backends_train_in_one_process() -> None:
    pytest.importorskip("tensorflow")
    from qa_fast.train.job import join

    assert join(JobConfig()).processes == 1
    with pytest.raises(UserError, match="a job of several processes needs KERAS_BACKEND=jax; received 'tensorflow'"):
        join(JobConfig(2, 0, "127.0.0.1:1"))


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (JobConfig(2, 2, "a:1"), r"--process-id must be 0 to 1, a different one in each of 2 processes; received 2"),
        (JobConfig(2, -1, "a:1"), r"--process-id must be 0 to 1.*received -1"),
        (JobConfig(2, None, "a:1"), r"--process-id must be 0 to 1.*received None"),
        (JobConfig(0), r"--processes must be at least 1; received 0"),
        (JobConfig(None, 1), r"--process-id need --processes; received no --processes"),
        (JobConfig(None, None, "a:1"), r"--process-id need --processes; received no --processes"),
        (JobConfig(2, None, "auto"), r"--coordinator auto finds the processes by itself; also received --processes:"),
        (JobConfig(2, 0, "a:1", join_timeout=0), r"--join-timeout must be at least 1; received 0"),
        (JobConfig(2, 0, "a:1", heartbeat_timeout=0), r"--heartbeat-timeout must be at least 1; received 0"),
    ],
)
def test_options_that_make_no_job(job: JobConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        job.check()


def test_where_the_coordinator_is() -> None:
    assert JobConfig(2, 0).address({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}) == "10.0.0.1:1234"
    assert JobConfig(coordinator="auto").address({}) is None
    for address in (None, "host", "host:port"):
        with pytest.raises(UserError, match=r"--coordinator .* must be HOST:PORT of process 0, .* received"):
            JobConfig(2, 0, address).address({})
