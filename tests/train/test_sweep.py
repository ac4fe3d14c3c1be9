"""The random search: its space, its journal, and one whole sweep of two runs."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import qa_fast.cli.sweep as cli
from qa_fast.builder.staging import locked
from qa_fast.cli.app import app
from qa_fast.errors import UserError
from qa_fast.train import TrainConfig
from qa_fast.train.sweep import (
    BATCH_SIZES,
    DROPOUTS,
    EPOCHS,
    LEARNING_RATES,
    WARMUPS,
    Killed,
    SweepConfig,
    Trial,
    command,
    in_a_process,
    options_of,
    sweep,
    table,
    train_arguments,
)
from tests.small_runs import make_model_folder, make_shards


class Runs:
    """Stands for the processes: F1 is best at a learning rate of 1e-4."""

    def __init__(self, fail: tuple[int, ...] = (), stop_at: int | None = None) -> None:
        self.seen: list[list[str]] = []
        self._fail, self._stop_at = fail, stop_at

    def __call__(self, arguments: list[str]) -> dict[str, Any]:
        number = int(arguments[arguments.index("--out") + 1][-4:])
        if number == self._stop_at:
            raise KeyboardInterrupt
        self.seen.append(arguments)
        if number in self._fail:
            raise UserError("the loss must stay a number")
        rate = float(arguments[arguments.index("--learning-rate") + 1]) if "--learning-rate" in arguments else 5e-5
        return {"best": {"f1": 80 - 1e5 * abs(rate - 1e-4), "exact_match": 50.0}}


def test_options_lie_in_the_space_and_depend_on_seed_and_number() -> None:
    found = [options_of(3, number) for number in range(1, 200)]
    assert found == [options_of(3, number) for number in range(1, 200)]
    assert found[:5] != [options_of(4, number) for number in range(1, 6)]
    for options in found:
        assert LEARNING_RATES[0] * 0.99 <= options["learning_rate"] <= LEARNING_RATES[1] * 1.01
        assert WARMUPS[0] <= options["warmup"] <= WARMUPS[1]
        TrainConfig(**options).check()
    for name, values in (("batch_size", BATCH_SIZES), ("epochs", EPOCHS), ("dropout", DROPOUTS)):
        assert {options[name] for options in found} == set(values)
    rates = sorted(options["learning_rate"] for options in found)
    assert 4e-5 < rates[100] < 8e-5  # the middle of a log-uniform choice
    assert options_of(3, 0) == {}


def test_help_tells_the_space() -> None:
    told = " ".join((cli.sweep.__doc__ or "").split())
    assert "learning rate 1e-5 to 3e-4 (log-uniform), batch size 8, 16 or 32, 1 to 3 epochs, warmup 0 to 0.2" in told
    assert (LEARNING_RATES, BATCH_SIZES, EPOCHS, WARMUPS) == ((1e-5, 3e-4), (8, 16, 32), (1, 2, 3), (0.0, 0.2))
    assert "dropout 0, 0.05, 0.1 or 0.2" in told
    assert DROPOUTS == (0.0, 0.05, 0.1, 0.2)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that nobody opens are told apart by their names."""
    monkeypatch.setattr("qa_fast.train.sweep.data_of", lambda shards, validation: list(shards))


def test_trials_of_other_data_do_not_count(tmp_path: Path) -> None:
    """The same folder's name, featurized again; a slash more is no other folder."""
    model = make_model_folder(tmp_path / "tiny")
    make_shards(tmp_path / "shards", model)
    config = SweepConfig(shards=(str(tmp_path / "shards"),), trials=2, out=str(tmp_path / "sweep"))
    sweep(config, print, Runs())
    none = Runs()
    sweep(SweepConfig(**vars(config) | {"shards": (f"{tmp_path / 'shards'}/",)}), print, none)
    assert not none.seen
    shutil.rmtree(tmp_path / "shards")
    make_shards(tmp_path / "fewer", model, places=3).rename(tmp_path / "shards")
    with pytest.raises(UserError, match=r"goes on with the settings it began with; .* has others \(shards\)"):
        sweep(config, print, Runs())


def test_one_sweep_at_a_time(tmp_path: Path, made_up: None) -> None:
    config = SweepConfig(trials=1, out=str(tmp_path / "sweep"))
    with locked(tmp_path / "sweep"), pytest.raises(UserError, match="run"):
        sweep(config, print, Runs())


def test_a_trial_that_was_killed_is_not_held_against_its_options(tmp_path: Path, made_up: None) -> None:
    config = SweepConfig(trials=2, out=str(tmp_path / "sweep"))

    def short_of_memory(arguments: list[str]) -> dict[str, Any]:
        raise Killed("was ended by signal 9")

    with pytest.raises(UserError, match="trial 0 was ended by signal 9: the others are kept"):
        sweep(config, print, short_of_memory)
    ranked = sweep(config, print, Runs())
    assert all(trial.error is None for trial in ranked)


def test_a_process_that_a_signal_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(Killed, match="was ended by signal 9"):
        in_a_process(["train"])


def test_a_sweep_goes_on_where_it_was(tmp_path: Path, made_up: None) -> None:
    config = SweepConfig(shards=("a", "b:2"), trials=6, out=str(tmp_path / "sweep"), seed=1)
    first = Runs(fail=(2,), stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        sweep(config, print, first)
    journal = tmp_path / "sweep" / "trials.jsonl"
    assert [json.loads(line)["trial"] for line in journal.read_text().splitlines()] == [0, 1, 2, 3]
    text = journal.read_text()
    journal.write_text(text[: len(text) - 30])  # trial 3's line was cut short by a kill
    rest = Runs()
    ranked = sweep(config, print, rest)
    assert len(rest.seen) == 3
    assert sorted(trial.trial for trial in ranked) == list(range(6))
    assert ranked[-1].trial == 2
    assert ranked[-1].error == "the loss must stay a number"
    scores = [trial.f1 for trial in ranked[:-1]]
    assert scores == sorted(scores, reverse=True)
    none = Runs()
    assert sweep(config, print, none) == ranked
    assert not none.seen
    longer = Runs()
    sweep(SweepConfig(**vars(config) | {"trials": 8}), print, longer)
    assert len(longer.seen) == 2
    with pytest.raises(UserError, match=r"goes on with the settings it began with; .*trials.jsonl has others \(seed\)"):
        sweep(SweepConfig(**vars(config) | {"seed": 2}), print, none)


def test_arguments_are_of_train_within_the_budget_or_without() -> None:
    config = SweepConfig(shards=("my shards", "b:2"), model="minilm", max_examples=70, validation_examples=None)
    options = options_of(0, 1)
    arguments = train_arguments(config, options, "out", budget=True)
    assert arguments[:3] == ["train", "my shards", "b:2"]
    assert arguments[arguments.index("--max-examples") + 1] == "70"
    assert "--validation-examples" not in arguments
    whole = shlex.split(command(config, trial_of(config)))
    assert whole[:4] == ["qa-fast", "train", "my shards", "b:2"]
    assert "--max-examples" not in whole
    assert float(whole[whole.index("--learning-rate") + 1]) == options["learning_rate"]


def trial_of(config: SweepConfig) -> Trial:
    return Trial(1, options_of(0, 1), 50.0, 40.0, 1.0, None, {})


def test_sweeps_that_cannot_be(tmp_path: Path, made_up: None) -> None:
    for change, message in (
        ({"trials": 0}, r"--trials must be at least 1; received 0"),
        ({"max_examples": 0}, r"--max-examples must be at least 1"),
        ({"seed": -1}, r"--seed must be at least 0; received -1"),
        ({"validation": ""}, r"--validation must name a split"),
    ):
        with pytest.raises(UserError, match=message):
            SweepConfig(**change).check()
    with pytest.raises(UserError, match=r"all 2 failed, the first with: the loss must stay a number"):
        sweep(SweepConfig(trials=2, out=str(tmp_path / "a")), print, Runs(fail=(0, 1)))
    with pytest.raises(UserError, match=r"all 1 failed, the first with: the shards have no split named dev to score"):
        sweep(SweepConfig(trials=1, out=str(tmp_path / "b"), validation="dev"), print, lambda _: {"best": None})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out must be a folder that can be written"):
        sweep(SweepConfig(trials=1, out=str(tmp_path / "file")), print, Runs())
    with pytest.raises(UserError, match=r"SHARDS must be a folder that 'qa-fast featurize' made"):
        in_a_process(["train", str(tmp_path / "nowhere"), "--json"])


@pytest.mark.slow
def test_a_whole_sweep(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", make_model_folder(tmp_path / "tiny"))
    arguments = ["sweep", str(tmp_path / "shards"), "--trials", "2", "--out", str(tmp_path / "sweep")]
    done = CliRunner().invoke(app, [*arguments, "--max-examples", "8", "--validation-examples", "4"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "sweep" / "trials.jsonl").read_text().splitlines()]
    assert [line["trial"] for line in lines] == [0, 1]
    assert all(line["error"] is None for line in lines), lines
    assert all(0 <= line["f1"] <= 100 for line in lines)
    assert "qa-fast train " in done.output
    lost = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "none"), "--validation", "dev"])
    assert "has train, validation and --validation is 'dev'" in str(lost.exception)
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["trials.jsonl"]
    best = max(lines, key=lambda line: line["f1"])
    rows = list(table(sweep(SweepConfig(
        shards=(str(tmp_path / "shards"),), trials=2, out=str(tmp_path / "sweep"), max_examples=8, validation_examples=4
    ), print, Runs())))  # fmt: skip
    assert rows[1].split()[0] == str(best["trial"])
