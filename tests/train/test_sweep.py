"""The search for options: its space, its study, and one whole sweep of two runs."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

import qa_fast.cli.sweep as cli
from qa_fast.builder.staging import locked
from qa_fast.cli.app import app
from qa_fast.errors import UserError
from qa_fast.train import TrainConfig
from qa_fast.train.config import SweepConfig
from qa_fast.train.sizing import sized
from qa_fast.train.sweep import (
    BATCH_SIZES,
    DROPOUTS,
    EPOCHS,
    JOURNAL,
    LEARNING_RATES,
    SEARCHED,
    WARMUPS,
    Killed,
    Trial,
    command,
    in_a_process,
    suggest,
    sweep,
    table,
    train_arguments,
)
from tests.small_runs import make_model_folder, make_shards

SHARDS = ["a", "b:2"]
RECIPE = {name: getattr(sized(TrainConfig())[0], name) for name in SEARCHED}


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
        rate = float(arguments[arguments.index("--learning-rate") + 1])
        return {"best": {"f1": 80 - 1e5 * abs(rate - 1e-4), "exact_match": 50.0}}


def test_options_lie_in_the_space() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    chosen = [suggest(study.ask()) for _ in range(100)]
    for options in chosen:
        assert tuple(options) == SEARCHED
        assert LEARNING_RATES[0] * 0.99 <= options["learning_rate"] <= LEARNING_RATES[1] * 1.01
        assert WARMUPS[0] <= options["warmup"] <= WARMUPS[1]
        TrainConfig(**options).check()
    assert {options["batch_size"] for options in chosen} == set(BATCH_SIZES)
    assert {options["dropout"] for options in chosen} == set(DROPOUTS)
    assert {options["epochs"] for options in chosen} == set(range(EPOCHS[0], EPOCHS[1] + 1))
    rates = sorted(options["learning_rate"] for options in chosen)
    assert 4e-5 < rates[50] < 8e-5  # the middle of a log-uniform choice


def test_help_tells_the_space() -> None:
    text = " ".join((cli.sweep.__doc__ or "").split())
    assert "learning rate 1e-5 to 3e-4 (log-uniform), batch size 8, 16 or 32, 1 to 3 epochs, warmup 0 to 0.2" in text
    assert (LEARNING_RATES, BATCH_SIZES, EPOCHS, WARMUPS) == ((1e-5, 3e-4), (8, 16, 32), (1, 3), (0.0, 0.2))
    assert "dropout 0, 0.05, 0.1, 0.2 or the model's own" in text
    assert DROPOUTS == (None, 0.0, 0.05, 0.1, 0.2)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that are not opened are distinguished by their names."""
    monkeypatch.setattr("qa_fast.train.sweep.open_mix", list)
    monkeypatch.setattr("qa_fast.train.sweep.fingerprints", lambda parts, validation: parts)


def test_trials_of_other_data_do_not_count(tmp_path: Path) -> None:
    """The same folder's name, featurized again; a trailing slash does not name another folder."""
    model = make_model_folder(tmp_path / "tiny", head=False)
    make_shards(tmp_path / "shards", model)
    config = SweepConfig(trials=2, out=str(tmp_path / "sweep"))
    sweep([str(tmp_path / "shards")], config, print, Runs())
    none = Runs()
    sweep([f"{tmp_path / 'shards'}/"], config, print, none)
    assert not none.seen
    shutil.rmtree(tmp_path / "shards")
    make_shards(tmp_path / "fewer", model, places=3).rename(tmp_path / "shards")
    with pytest.raises(UserError, match=r"continue with the settings it began with; .* has others \(shards\)"):
        sweep([str(tmp_path / "shards")], config, print, Runs())


def test_one_sweep_at_a_time(tmp_path: Path, made_up: None) -> None:
    config = SweepConfig(trials=1, out=str(tmp_path / "sweep"))
    with locked(tmp_path / "sweep"), pytest.raises(UserError, match="run"):
        sweep(SHARDS, config, print, Runs())


def test_a_trial_that_was_killed_is_not_held_against_its_options(tmp_path: Path, made_up: None) -> None:
    config = SweepConfig(trials=2, out=str(tmp_path / "sweep"))

    def short_of_memory(arguments: list[str]) -> dict[str, Any]:
        raise Killed("was ended by signal 9")

    with pytest.raises(UserError, match="trial 0 was ended by signal 9: correct that, and run the same command again"):
        sweep(SHARDS, config, print, short_of_memory)
    ranked = sweep(SHARDS, config, print, Runs())
    assert all(trial.error is None for trial in ranked)
    assert next(trial for trial in ranked if trial.trial == 0).options == RECIPE


def test_a_process_that_a_signal_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(Killed, match="was ended by signal 9"):
        in_a_process(["train"])


def test_a_sweep_goes_on_where_it_was(tmp_path: Path, made_up: None) -> None:
    config = SweepConfig(trials=6, out=str(tmp_path / "sweep"), seed=1)
    first = Runs(fail=(2,), stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        sweep(SHARDS, config, print, first)
    assert len(first.seen) == 4
    journal = tmp_path / "sweep" / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-30])  # the last line was cut short by a kill
    rest = Runs()
    ranked = sweep(SHARDS, config, print, rest)
    assert len(rest.seen) == 2
    assert sorted(trial.trial for trial in ranked) == list(range(6))
    assert next(trial for trial in ranked if trial.trial == 0).options == RECIPE
    assert ranked[-1].trial == 2
    assert ranked[-1].error == "the loss must stay a number"
    scores = [trial.f1 for trial in ranked[:-1]]
    assert scores == sorted(scores, reverse=True)
    none = Runs()
    assert sweep(SHARDS, config, print, none) == ranked
    assert not none.seen
    longer = Runs()
    sweep(SHARDS, SweepConfig(**vars(config) | {"trials": 8}), print, longer)
    assert len(longer.seen) == 2
    with pytest.raises(UserError, match=rf"continue with the settings it began with; .*{JOURNAL} has others \(seed\)"):
        sweep(SHARDS, SweepConfig(**vars(config) | {"seed": 2}), print, none)
    whole = sweep(SHARDS, SweepConfig(**vars(config) | {"out": str(tmp_path / "whole")}), print, Runs(fail=(2,)))
    assert [trial.options for trial in whole] == [trial.options for trial in ranked]  # as if nothing had stopped it


def test_arguments_are_of_train_within_the_budget_or_without() -> None:
    config = SweepConfig(model="minilm", max_examples=70, validation_examples=0)
    options = RECIPE | {"learning_rate": 2e-5}
    arguments = train_arguments(["my shards", "b:2"], config, options, "out", budget=True)
    assert arguments[:3] == ["train", "my shards", "b:2"]
    assert arguments[arguments.index("--max-examples") + 1] == "70"
    assert "--validation-examples" not in arguments
    assert "--dropout" not in arguments
    whole = shlex.split(command(["my shards", "b:2"], config, Trial(1, options, 50.0, 40.0, 1.0, None)))
    assert whole[:4] == ["qa-fast", "train", "my shards", "b:2"]
    assert "--max-examples" not in whole
    assert float(whole[whole.index("--learning-rate") + 1]) == 2e-5


@pytest.mark.slow
def test_sweeps_that_cannot_be(tmp_path: Path, made_up: None) -> None:
    for change, message in (
        ({"trials": 0}, r"--trials must be at least 1; received 0"),
        ({"max_examples": -1}, r"--max-examples must be at least 0"),
        ({"seed": -1}, r"--seed must be at least 0; received -1"),
        ({"validation": ""}, r"--validation must name a split"),
    ):
        with pytest.raises(UserError, match=message):
            SweepConfig(**change).check()
    with pytest.raises(UserError, match=r"all 2 failed, the first with: the loss must stay a number"):
        sweep(SHARDS, SweepConfig(trials=2, out=str(tmp_path / "a")), print, Runs(fail=(0, 1)))
    with pytest.raises(UserError, match=r"all 1 failed, the first with: the split dev has nothing to score"):
        sweep(SHARDS, SweepConfig(trials=1, out=str(tmp_path / "b"), validation="dev"), print, lambda _: {"best": None})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out must be a writable folder"):
        sweep(SHARDS, SweepConfig(trials=1, out=str(tmp_path / "file")), print, Runs())
    with pytest.raises(UserError, match=r"SHARDS must be a folder that 'qa-fast featurize' made"):
        in_a_process(["train", str(tmp_path / "nowhere"), "--json"])


@pytest.mark.parametrize("text", ["mine", "{}\n", "[]\n", '{"op_code":99}\n', '{"op_code":0,"worker_id":3}\n'])
def test_another_file_in_the_place_of_the_study(tmp_path: Path, made_up: None, text: str) -> None:
    (tmp_path / JOURNAL).write_text(text)
    (tmp_path / JOURNAL).rename(tmp_path / "mine")
    with pytest.raises(UserError, match=r"--out must be new, empty or the folder of a sweep; .* \(mine"):
        sweep(SHARDS, SweepConfig(trials=1, out=str(tmp_path)), print, Runs())
    (tmp_path / "mine").rename(tmp_path / JOURNAL)
    with pytest.raises(UserError, match=rf"--out must be a new folder .*{JOURNAL} is not a journal of Optuna"):
        sweep(SHARDS, SweepConfig(trials=1, out=str(tmp_path)), print, Runs())
    assert (tmp_path / JOURNAL).read_text() == text


@pytest.mark.slow
def test_a_whole_sweep(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", make_model_folder(tmp_path / "tiny", head=False))
    arguments = ["sweep", str(tmp_path / "shards"), "--trials", "2", "--out", str(tmp_path / "sweep")]
    arguments += ["--max-examples", "8", "--validation-examples", "4"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    outcome = json.loads(done.stdout)
    assert sorted(trial["trial"] for trial in outcome["trials"]) == [0, 1]
    assert all(trial["error"] is None for trial in outcome["trials"]), outcome
    assert all(0 <= trial["f1"] <= 100 for trial in outcome["trials"])
    assert outcome["command"].startswith("qa-fast train ")
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == [JOURNAL]
    again = CliRunner().invoke(app, arguments)
    assert f"\n{outcome['command']}\n" in again.stdout
    assert list(table([Trial(**trial) for trial in outcome["trials"]])) == again.stdout.splitlines()[:3]
    lost = CliRunner().invoke(app, [*arguments, "--validation", "dev"])
    assert "received 'dev', and " in str(lost.exception)
