"""A small random search over the options that matter most, each trial a short `qa-fast train` in a process of its own.

Random search finds as good a point as a grid of many times the size where few options matter (Bergstra & Bengio 2012).
A trial's options are a pure function of (seed, number), and every outcome is a line of OUT/trials.jsonl, written when
the trial is over: a sweep that was stopped goes on where it was, and a longer one begins with the shorter one's trials.
Trial 0 is the recipe of `qa-fast train` as it is, so that the table says what was gained. A process for each trial
gives its memory back, and one that fails is a line of the table and not the end of the sweep.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from qa_fast.builder.staging import locked
from qa_fast.errors import UserError
from qa_fast.shards import CHECKSUM, TRAIN
from qa_fast.train.config import TrainConfig
from qa_fast.train.mix import open_mix

JOURNAL = "trials.jsonl"
# What is searched, as told by --help. Devlin et al. 2019, appendix A.3, search rates of 2e-5 to 5e-5, batches of 16 and
# 32 and 2 to 4 epochs for BERT; the ranges here are wider, for small encoders and small data.
LEARNING_RATES = (1e-5, 3e-4)  # log-uniform
BATCH_SIZES = (8, 16, 32)
EPOCHS = (1, 2, 3)
WARMUPS = (0.0, 0.2)  # uniform
DROPOUTS = (0.0, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class SweepConfig:
    """Options of `sweep`.

    Attributes:
        shards: As given to `train`: folders, with weights where wanted.
        trials: How many in all, those of an earlier sitting among them.
        out: Folder of the journal.
        model: As that of `TrainConfig`.
        max_examples: Budget of a trial: train on a random choice of so many examples.
        validation: Split to score.
        validation_examples: Score a random choice of so many examples; None is all.
        seed: Of the trials' options, and of each trial's run.
    """

    shards: tuple[str, ...] = ("shards",)
    trials: int = 12
    out: str = "sweep"
    model: str | None = None
    max_examples: int | None = 4000
    validation: str = "validation"
    validation_examples: int | None = 1000
    seed: int = 0

    def check(self) -> None:
        """Refuse values that no sweep can have.

        Raises:
            UserError: With the rule, the value and the option's name.
        """
        for name in ("trials", "max_examples", "validation_examples"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1; received {value}")
        if not self.seed >= 0:
            raise UserError(f"--seed must be at least 0; received {self.seed}")
        if not self.validation:
            raise UserError("--validation must name a split, for trials are told apart by its F1; received ''")

    def settings(self) -> dict[str, Any]:
        """What all trials share, JSON-ready: those of other settings cannot be compared.

        Raises:
            UserError: The shards are not usable.
        """
        names = ("model", "max_examples", "validation", "validation_examples", "seed")
        return {"shards": data_of(self.shards, self.validation)} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Trial:
    """A line of the journal.

    Attributes:
        trial: Its number.
        options: Of `TrainConfig`, by name; none in trial 0.
        f1: In percent; None where the run failed.
        exact_match: In percent.
        seconds: Of the whole process.
        error: What a failed run said.
        settings: See `SweepConfig.settings`.
    """

    trial: int
    options: dict[str, Any]
    f1: float | None
    exact_match: float | None
    seconds: float
    error: str | None
    settings: dict[str, Any]


Run = Callable[[list[str]], dict[str, Any]]


class Killed(UserError):
    """A trial's process was killed from without, which says nothing of its options."""


def data_of(shards: Sequence[str], validation: str) -> list[dict[str, Any]]:
    """What tells data sets apart, whatever their folders are called: weights and checksums of what a trial reads.

    Raises:
        UserError: The shards are not usable, or the first have no such split.
    """
    parts, found = open_mix(shards), []
    first = parts[0].shards
    if validation not in first.names:
        raise UserError(
            f"a sweep needs a split to score; {first.folder} has {', '.join(first.names)} and --validation is "
            f"{validation!r}: featurize one along"
        )
    for part in parts:
        files = [
            file[CHECKSUM]
            for name in (TRAIN, validation)
            for file in part.shards.manifest["splits"].get(name, {}).get("shards", [])
        ]
        found.append({"weight": part.weight, "checksum": xxhash.xxh3_128_hexdigest(" ".join(files).encode())})
    return found


def options_of(seed: int, trial: int) -> dict[str, Any]:
    """The options of a trial."""
    if trial == 0:
        return {}
    generator = np.random.default_rng([seed, trial])
    low, high = np.log(LEARNING_RATES)
    return {
        "learning_rate": float(f"{np.exp(generator.uniform(low, high)):.2e}"),
        "batch_size": int(generator.choice(BATCH_SIZES)),
        "epochs": int(generator.choice(EPOCHS)),
        "warmup": round(float(generator.uniform(*WARMUPS)), 3),
        "dropout": float(generator.choice(DROPOUTS)),
    }


def sweep(config: SweepConfig, say: Callable[[str], None], run: Run | None = None) -> list[Trial]:
    """Run the trials that the journal lacks.

    Args:
        config: All options.
        say: Told a line before and after each trial.
        run: Given the arguments of `qa-fast`, gives what it prints as JSON; in a process of its own if None.

    Returns:
        All trials, the best by F1 first, failed ones last.

    Raises:
        UserError: An option is not usable, OUT cannot be written or holds a sweep of other settings, or every trial
            failed.
    """
    config.check()
    try:
        with locked(Path(config.out)):
            return _all_tried(config, config.settings(), say, run or in_a_process)
    except OSError as error:
        raise _unusable(Path(config.out), error) from None


def _all_tried(config: SweepConfig, settings: dict[str, Any], say: Callable[[str], None], run: Run) -> list[Trial]:
    journal = Path(config.out) / JOURNAL
    done = {trial.trial: trial for trial in read_journal(journal, settings)}
    for number in range(config.trials):
        if number in done:
            continue
        options = options_of(config.seed, number)
        say(f"trial {number} of {config.trials}: {told(options)}")
        trial = _tried(config, settings, number, options, run)
        _append(journal, trial)
        done[number] = trial
        outcome = f"F1 {trial.f1:.2f}, EM {trial.exact_match:.2f}" if trial.error is None else f"failed: {trial.error}"
        say(f"trial {number}: {outcome} ({trial.seconds:.0f} s)")
    ranked = sorted((done[n] for n in range(config.trials)), key=lambda trial: (trial.f1 is None, -(trial.f1 or 0)))
    if ranked[0].f1 is None:
        raise UserError(
            f"at least one trial must come to its end; all {len(ranked)} failed, the first with: {ranked[0].error}: "
            f"mend that, remove {journal}, and begin anew"
        )
    return ranked


def _tried(config: SweepConfig, settings: dict[str, Any], number: int, options: dict[str, Any], run: Run) -> Trial:
    folder = Path(config.out) / f"trial-{number:04d}"
    shutil.rmtree(folder, ignore_errors=True)  # of a sweep that was stopped in the midst of it
    arguments = train_arguments(config, options, str(folder), budget=True)
    begin = time.perf_counter()
    f1 = exact_match = error = None
    try:
        best = run([*arguments, "--json"])["best"]
        f1, exact_match = best["f1"], best["exact_match"]
    except Killed as failure:
        raise UserError(
            f"a trial must come to its end or fail by itself; trial {number} {failure}: the others are kept, so mend "
            "that, and go on with the same command"
        ) from None
    except UserError as failure:
        error = str(failure)
    except TypeError:  # best is null
        error = f"the shards have no split named {config.validation} to score"
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a model of a short run is of no use
    return Trial(number, options, f1, exact_match, round(time.perf_counter() - begin, 1), error, settings)


def train_arguments(config: SweepConfig, options: dict[str, Any], out: str, *, budget: bool) -> list[str]:
    """The arguments of `qa-fast` that train with a trial's options, within the trials' budget or without it."""
    arguments = ["train", *config.shards, "--out", out, "--seed", str(config.seed)]
    named: dict[str, Any] = {"model": config.model, "validation": config.validation}
    if config.validation == TrainConfig.validation:
        del named["validation"]
    if budget:
        named |= {"max_examples": config.max_examples, "validation_examples": config.validation_examples}
        named["checkpoint_every"] = 0
    for name, value in (named | options).items():
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return arguments


def command(config: SweepConfig, trial: Trial, out: str = "model") -> str:
    """The command that trains on all data with a trial's options."""
    return shlex.join(["qa-fast", *train_arguments(config, trial.options, out, budget=False)])


def told(options: dict[str, Any]) -> str:
    """Options in a line."""
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in options.items()) or "train's own recipe"


def table(trials: Sequence[Trial]) -> Iterator[str]:
    """Lines of a table of the trials, in their order."""
    plain = TrainConfig()
    yield f"trial  {'F1':>6}  {'EM':>6}  {'rate':>8}  batch  epochs  warmup  dropout  time"
    for trial in trials:
        has = {name: trial.options.get(name, getattr(plain, name)) for name in options_of(0, 1)}
        scores = ("failed", "") if trial.f1 is None else (f"{trial.f1:.2f}", f"{trial.exact_match:.2f}")
        dropout = "model's" if has["dropout"] is None else f"{has['dropout']:g}"
        yield (
            f"{trial.trial:>5}  {scores[0]:>6}  {scores[1]:>6}  {has['learning_rate']:>8.2g}  {has['batch_size']:>5}  "
            f"{has['epochs']:>6}  {has['warmup']:>6g}  {dropout:>7}  {trial.seconds:.0f} s"
        )


def in_a_process(arguments: list[str]) -> dict[str, Any]:
    """What a `qa-fast` command prints as JSON.

    Raises:
        Killed: By a signal.
        UserError: It failed; with the last line that it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "qa_fast.cli", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode in (130, -2):
        raise KeyboardInterrupt
    if done.returncode < 0:
        raise Killed(f"was ended by signal {-done.returncode} (9 is what a machine short of memory does)")
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode} and said nothing"])[-1]
        raise UserError(last.removeprefix("error: ")) from None
    return found


def read_journal(path: Path, settings: dict[str, Any]) -> list[Trial]:
    """The trials of a journal; a line that was cut short is none.

    Raises:
        UserError: It holds trials of other settings, or cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise _unusable(path, error) from None
    trials = []
    for line in lines:
        try:
            trial = Trial(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if isinstance(trial.settings, dict):
            trials.append(trial)
    for trial in trials:
        if trial.settings != settings:
            changed = [name for name, value in settings.items() if trial.settings.get(name) != value]
            raise UserError(
                f"a sweep goes on with the settings it began with; {path} has others ({', '.join(changed)}): use the "
                "same, or another --out"
            )
    return trials


def _append(path: Path, trial: Trial) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that was cut short stays one
                    file.write(b"\n")
            file.write((json.dumps(asdict(trial)) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"--out must be a folder that can be written, with room; {path}: {error.strerror or error}: choose another"
    )
