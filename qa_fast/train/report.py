"""Reports of a run: progress line, TensorBoard events, picture of the curves, versions."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from qa_fast import store
from qa_fast.progress import Log, clock
from qa_fast.scoring.rules import SQUAD


@dataclass(frozen=True)
class StepReport:
    """A point of the training curve.

    Attributes:
        step: Steps done.
        steps: Steps in the whole run.
        epoch: Counts from 1.
        loss: Mean loss since the last point.
        learning_rate: Learning rate of this step.
        gradient_norm: Norm before clipping.
        features_per_second: Without the time for compilation and validation.
        tokens_per_second: Without padding.
        seconds_left: Estimate without validation, with the time to compile the widths that did not occur yet.
        compile_seconds: Duration of the steps so far that compiled something.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    features_per_second: float
    tokens_per_second: float
    seconds_left: float
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class EpochReport:
    """The outcome of a validation.

    Attributes:
        epoch: Counts from 1.
        step: Steps done.
        loss: Loss on the validation split, over each feature's own tokens.
        exact_match: In percent, by the metric.
        f1: In percent, by the metric.
        seconds: Duration of the validation.
        saved: Whether the model was saved because it is the best so far.
        metric: Name of the metric, see `EvaluationResult.metric`.
        squad: Exact match and F1 of SQuAD in percent; empty if the metric is SQuAD's.
        intervals: 95 % intervals in percent, low and high of exact match and of F1; empty if there are many questions.
        precision: Precision that the model computed in.
    """

    epoch: int
    step: int
    loss: float
    exact_match: float
    f1: float
    seconds: float
    saved: bool
    metric: str = SQUAD
    squad: list[float] = field(default_factory=list)
    intervals: list[float] = field(default_factory=list)
    precision: str = ""

    def scores_in_words(self) -> str:
        """Return exact match and F1 with their intervals, and SQuAD's beside those of another metric."""
        within = ["", ""]
        if self.intervals:
            ends = [f"{end:.1f}" for end in self.intervals]
            within = [f" (95 % {low} to {high})" for low, high in (ends[:2], ends[2:])]
        scores = f"EM {self.exact_match:.2f}{within[0]}, F1 {self.f1:.2f}{within[1]}"
        if not self.squad:
            return scores
        return f"{scores} by {self.metric}, SQuAD's EM {self.squad[0]:.2f}, F1 {self.squad[1]:.2f}"


Progress = Callable[[StepReport | EpochReport | str], None]


class Pace:
    """Speed over the last steps; steps that compiled something are counted apart.

    Attributes:
        seconds: Duration of the steps that compiled nothing.
        features: Number of features in those steps.
        tokens: Number of tokens in those steps, without padding.
        compile_seconds: Duration of the steps that compiled something.
        compilations: Number of those steps.
    """

    def __init__(self, window: int = 50) -> None:
        self._last: deque[tuple[float, int, int]] = deque(maxlen=window)
        self.seconds = 0.0
        self.features = self.tokens = 0
        self.compile_seconds = 0.0
        self.compilations = 0

    def add(self, seconds: float, features: int, tokens: int, compiled: bool) -> None:
        """Count one step."""
        if compiled:
            self.compile_seconds += seconds
            self.compilations += 1
            return
        self._last.append((seconds, features, tokens))
        self.seconds += seconds
        self.features += features
        self.tokens += tokens

    def compiling_left(self, widths: int) -> float:
        """Return the seconds that the first step of each remaining width takes, of `widths` in all.

        Where one step alone has compiled something, widths are not known to be compiled apart.
        """
        if self.compilations == 1:
            return 0.0
        return self.compile_seconds / max(1, self.compilations) * max(0, widths - self.compilations)

    def rates(self) -> tuple[float, float]:
        """Return features and tokens per second over the window; 0 before the first step that compiled nothing."""
        seconds = sum(entry[0] for entry in self._last)
        if not seconds:
            return 0.0, 0.0
        return sum(entry[1] for entry in self._last) / seconds, sum(entry[2] for entry in self._last) / seconds


class ProgressLine:
    """A progress bar on the terminal, or lines in a log; a context manager to be passed as `train(progress=...)`.

    Args:
        console: A rich console; standard error if None.
    """

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), console=self._console
        )
        self._task = self._progress.add_task("train", total=None, text="starting")
        self._log = Log(self._print)

    def __enter__(self) -> ProgressLine:
        self._log.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.__exit__()
        if self._console.is_terminal:
            self._progress.stop()

    def __call__(self, event: StepReport | EpochReport | str) -> None:
        """Show an event. The bar appears with the first one, so that a silent process shows none."""
        line = event if isinstance(event, str) else in_words(event)
        if not self._console.is_terminal:
            self._log.note("" if isinstance(event, EpochReport) else line)  # scores are told once
        else:
            self._progress.start()
        if not isinstance(event, StepReport):
            self._print(line)
        elif self._console.is_terminal:
            self._progress.update(self._task, total=event.steps, completed=event.step, text=line)

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def in_words(event: StepReport | EpochReport) -> str:
    """Return an event as one line."""
    if isinstance(event, EpochReport):
        kept = "saved" if event.saved else "not the best, not saved"
        return (
            f"epoch {event.epoch}: validation loss {event.loss:.3f}, {event.scores_in_words()} "
            f"({kept}; {event.seconds:.0f} s)"
        )
    left = f"{clock(event.seconds_left)} left" if event.features_per_second else "compiling"
    if event.features_per_second and event.compile_seconds >= 1:
        left += f" ({clock(event.compile_seconds)} went into compiling)"
    return (
        f"{event.step}/{event.steps} loss {event.loss:.3f} {event.features_per_second:.1f} features/s "
        f"{event.tokens_per_second:,.0f} tokens/s {left}"
    )


class EventLog:
    """Scalars for TensorBoard, written without TensorFlow so that JAX runs have them, too.

    Each is written in the calling thread: TensorBoard's own writer has a thread, in which a full disk only causes a
    traceback.

    Args:
        folder: Folder of the event file.

    Raises:
        OSError: The file cannot be written; the same in `add`.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._record, self._summary = Record, Summary
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{os.getpid()}-{os.urandom(4).hex()}"
        self._writer = RecordWriter((folder / name).open("xb"))
        self._write(Record(wall_time=now, file_version="brain.Event:2"))

    def add(self, step: int, at: float, scalars: dict[str, float]) -> None:
        """Write scalars of one step.

        Args:
            step: Steps done.
            at: Seconds since 1970.
            scalars: Values by tag, such as "train/loss".
        """
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(self._record(wall_time=at, step=step, summary=self._summary(value=values)))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # `add` has reported it
            self._writer.close()


@dataclass
class History:
    """Curves of a run, kept in its checkpoints.

    Attributes:
        steps: Steps done, for each point.
        losses: Mean training loss since the point before.
        learning_rates: Learning rate at each point.
        epochs: All validations, each an `EpochReport` as a dict.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)


def draw(history: History, path: Path) -> None:
    """Draw losses and learning rate as a PNG file; without a point nothing is written."""
    if not history.steps:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot(history.steps, history.losses, color="tab:blue", alpha=0.35, linewidth=1)
    top.plot(history.steps, smoothed(history.losses), color="tab:blue", label="training loss")
    if history.epochs:
        at = [entry["step"] for entry in history.epochs]
        top.plot(at, [entry["loss"] for entry in history.epochs], "o", color="tab:red", label="validation loss")
        for entry in history.epochs:
            below = {"xytext": (0, -8), "textcoords": "offset points", "ha": "center", "va": "top"}
            top.annotate(f"F1 {entry['f1']:.1f}", (entry["step"], entry["loss"]), **below)
    top.set_ylabel("loss")
    top.set_ylim(bottom=0)
    top.legend()
    top.grid(alpha=0.3)
    bottom.plot(history.steps, history.learning_rates, color="tab:gray")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    bottom.grid(alpha=0.3)
    with store.whole_file(path, make_folder=False) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Return the exponential moving average, corrected for the bias of its start."""
    average, out = 0.0, []
    for number, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        out.append(average / (1 - weight**number))
    return out


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that decide how a model is trained."""
    installed = {"python": platform.python_version()}
    for name in ("qa-fast", "keras", "tensorflow", "tensorflow-cpu", "jax", "numpy", "tokenizers", "transformers"):
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; infinities and NaN become null."""

    def clean(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return None
        if isinstance(item, dict):
            return {key: clean(entry) for key, entry in item.items()}
        return [clean(entry) for entry in item] if isinstance(item, list | tuple) else item

    store.write_json(path, clean(value))
