"""A search for better options of `qa-fast train`, by Optuna.

Each trial is a short `qa-fast train` in a process of its own, which returns its memory when it ends; a trial that fails
is a row of the table and does not end the sweep. Trial 0 has the default recipe for large data, so that the table shows
the gain. OUT/study.log keeps the study (Optuna's journal storage), and a sweep that was stopped continues from there.
The options of a trial depend only on the seed and on the trials before it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from qa_fast.builder.staging import locked, not_writable
from qa_fast.errors import UserError
from qa_fast.options import flag_of
from qa_fast.temporary import scratch
from qa_fast.train.config import SweepConfig, TrainConfig
from qa_fast.train.early import JOURNAL, check_sweep_out
from qa_fast.train.mix import fingerprints, open_mix
from qa_fast.train.sizing import sized

# Devlin et al. 2019, appendix A.3, search learning rates of 2e-5 to 5e-5, batches of 16 and 32, and 2 to 4 epochs for
# BERT. These ranges are wider, for small encoders and small data. `qa-fast sweep --help` lists them.
LEARNING_RATES = (1e-5, 3e-4)  # log-uniform
BATCH_SIZES = (8, 16, 32)
EPOCHS = (1, 3)
WARMUPS = (0.0, 0.2)
DROPOUTS = (None, 0.0, 0.05, 0.1, 0.2)  # None keeps the rates of the model
SEARCHED = ("learning_rate", "batch_size", "epochs", "warmup", "dropout")


@dataclass(frozen=True)
class Trial:
    """A finished or failed trial.

    Attributes:
        trial: Its number, from 0.
        options: The searched options of `TrainConfig`, by name.
        f1: In percent; None where the run failed.
        exact_match: In percent; None where the run failed.
        seconds: Duration of the whole process.
        error: The message of a failed run.
    """

    trial: int
    options: dict[str, Any]
    f1: float | None
    exact_match: float | None
    seconds: float
    error: str | None


Run = Callable[[list[str]], dict[str, Any]]


class Killed(UserError):
    """A signal ended a trial's process, which says nothing about the trial's options."""


def sweep(
    shards: Sequence[str], config: SweepConfig, say: Callable[[str], None], run: Run | None = None
) -> list[Trial]:
    """Run the trials that the study lacks.

    Args:
        shards: Folders of shards as `train` takes them, with or without weights.
        config: All options.
        say: Receives a line before and after each trial.
        run: Takes arguments of `qa-fast` and returns what the command prints as JSON; None starts a process.

    Returns:
        All trials, the best by F1 first, failed ones last.

    Raises:
        UserError: An option or the shards cannot be used, OUT cannot be written or holds another sweep, or every trial
            failed.
    """
    config.check()
    out = Path(config.out)
    names = ("model", "max_examples", "validation", "validation_examples", "seed")
    settings = {"shards": fingerprints(open_mix(shards), config.validation)}
    settings |= {name: getattr(config, name) for name in names}
    try:
        check_sweep_out(out)
        with locked(out):
            study = _open_study(out / JOURNAL, settings)
            while len(trials := _trials_of(study)) < config.trials:
                _run_next(study, len(trials), shards, config, say, run or in_a_process)
    except OSError as error:
        raise not_writable(out, error) from None
    ranked = sorted(trials[: config.trials], key=lambda trial: (trial.f1 is None, -(trial.f1 or 0)))
    if ranked[0].f1 is None:
        raise UserError(
            f"at least one trial must succeed; all {len(ranked)} failed, the first with: {ranked[0].error}: correct "
            f"that, remove {out / JOURNAL}, and start again"
        )
    return ranked


def _open_study(path: Path, settings: dict[str, Any]) -> optuna.Study:
    """Open the study of a folder, or begin one.

    Raises:
        UserError: The file holds a study with other settings, or something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if path.exists():
            _drop_cut_line(path)
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)
        known = study.user_attrs.get("settings")
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"--out must be a new folder or the folder of a sweep; {path} is not a journal of Optuna "
            f"({type(error).__name__}): choose another --out"
        ) from None
    if known is None:
        study.set_user_attr("settings", settings)
    elif known != settings:
        changed = [name for name, value in settings.items() if known.get(name) != value]
        raise UserError(
            f"a sweep must continue with the settings it began with; {path} has others ({', '.join(changed)}): use the "
            "same settings or another --out"
        )
    for stopped in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(stopped.number, state=TrialState.FAIL)
    return study


def _drop_cut_line(path: Path) -> None:
    """Remove the last line of a journal if a kill cut it short, because Optuna would append to it.

    Raises:
        ValueError: The file is not a journal.
    """
    journal = path.read_bytes()
    if not journal.startswith(b'{"op_code":'):
        raise ValueError
    os.truncate(path, journal.rfind(b"\n") + 1)


def _trials_of(study: optuna.Study) -> list[Trial]:
    """Return the trials that finished or failed by themselves, oldest first; interrupted ones are left out."""
    ended = [trial for trial in study.get_trials(deepcopy=False) if "seconds" in trial.user_attrs]
    return [Trial(number, f1=trial.value, **trial.user_attrs) for number, trial in enumerate(ended)]


def _run_next(
    study: optuna.Study,
    number: int,
    shards: Sequence[str],
    config: SweepConfig,
    say: Callable[[str], None],
    run: Run,
) -> None:
    """Run one trial and keep its outcome. If the trial is killed, its options are tried again the next time."""
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    if number == 0:
        study.enqueue_trial({name: getattr(sized(TrainConfig())[0], name) for name in SEARCHED})
    trial = study.ask()
    options = suggest(trial)
    say(f"trial {number} of {config.trials}: {in_words(options)}")
    folder = Path(config.out) / f"trial-{number:04d}"
    shutil.rmtree(folder, ignore_errors=True)  # left by a sweep that was killed
    begin = time.perf_counter()
    f1 = exact_match = error = None
    try:
        best = run([*train_arguments(shards, config, options, str(folder), budget=True), "--json"])["best"]
        if best is None:
            raise UserError(f"the split {config.validation} has nothing to score")
        f1, exact_match = best["f1"], best["exact_match"]
    except Killed as failure:
        raise UserError(f"trial {number} {failure}: correct that, and run the same command again") from None
    except UserError as failure:
        error = str(failure)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a model of a short run is of no use
    seconds = round(time.perf_counter() - begin, 1)
    for name, value in {"options": options, "exact_match": exact_match, "error": error, "seconds": seconds}.items():
        trial.set_user_attr(name, value)
    study.tell(trial, f1, TrialState.COMPLETE if error is None else TrialState.FAIL)
    outcome = f"F1 {f1:.2f}, EM {exact_match:.2f}" if error is None else f"failed: {error}"
    say(f"trial {number}: {outcome} ({seconds:.0f} s)")


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Let Optuna choose the searched options of `TrainConfig`."""
    return {
        "learning_rate": float(f"{trial.suggest_float('learning_rate', *LEARNING_RATES, log=True):.2e}"),
        "batch_size": trial.suggest_categorical("batch_size", BATCH_SIZES),
        "epochs": trial.suggest_int("epochs", *EPOCHS),
        "warmup": round(trial.suggest_float("warmup", *WARMUPS), 3),
        "dropout": trial.suggest_categorical("dropout", DROPOUTS),
    }


def train_arguments(
    shards: Sequence[str], config: SweepConfig, options: dict[str, Any], out: str, *, budget: bool
) -> list[str]:
    """Return arguments of `qa-fast` that train with a trial's options, within the budget of a trial or on all data."""
    arguments = ["train", *shards, "--out", out, "--seed", str(config.seed)]
    named: dict[str, Any] = {"model": config.model}
    if config.validation != TrainConfig.validation:
        named["validation"] = config.validation
    if budget:
        named |= {"max_examples": config.max_examples or None, "checkpoint_every": 0}
        named["validation_examples"] = config.validation_examples or None
    for name, value in (named | options).items():
        if value is not None:
            arguments += [flag_of(name), str(value)]
    return arguments


def command(shards: Sequence[str], config: SweepConfig, trial: Trial) -> str:
    """Return the command that trains on all data with a trial's options."""
    return shlex.join(["qa-fast", *train_arguments(shards, config, trial.options, "model", budget=False)])


def in_words(options: dict[str, Any]) -> str:
    """Return options as one line."""
    return ", ".join(
        f"{name.replace('_', ' ')} {'of the model' if value is None else format(value, 'g')}"
        for name, value in options.items()
    )


def table(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the lines of a table of trials, in their order."""
    yield f"trial  {'F1':>6}  {'EM':>6}  {'time':>7}  options"
    for trial in trials:
        scores = f"{'failed':>6}  {'':>6}" if trial.f1 is None else f"{trial.f1:>6.2f}  {trial.exact_match:>6.2f}"
        yield f"{trial.trial:>5}  {scores}  {trial.seconds:>5.0f} s  {in_words(trial.options)}"


def in_a_process(arguments: list[str]) -> dict[str, Any]:
    """Return what a `qa-fast` command prints as JSON.

    Raises:
        Killed: A signal ended the process.
        UserError: The command failed; the message is the last line that it printed.
        KeyboardInterrupt: The command was interrupted.
    """
    with scratch() as folder:  # a process that is killed leaves TensorFlow's temporary files
        done = subprocess.run(
            [sys.executable, "-m", "qa_fast.cli", *arguments],
            env=os.environ | {"TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode in (130, -2):
        raise KeyboardInterrupt
    if done.returncode < 0 or done.returncode > 128:
        number = -done.returncode if done.returncode < 0 else done.returncode - 128
        raise Killed(f"was ended by signal {number} (signal 9 often means that memory ran out)")
    try:
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode} and printed nothing"])[-1]
        raise UserError(last.removeprefix("error: ")) from None
    return outcome
