"""The inputs of an optimization step (micro batches with row weights), the engines' interface, and a run's state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from qa_fast.batches import Batch
from qa_fast.errors import UserError, shown
from qa_fast.model.dropout import dropout_key
from qa_fast.schema import Int8s, Int32s
from qa_fast.train.report import EpochReport, History

Floats = npt.NDArray[np.float32]


class Micro(NamedTuple):
    """Arguments of one forward and backward pass.

    Attributes:
        input_ids: int32[B, L]; in a job of several processes B counts the rows of this one.
        lengths: int32[B].
        token_type_ids: int8[B, L].
        starts: int32[B], in [0, L).
        ends: int32[B], in [0, L).
        start_weights: float32[B], weight of each row's start in the step's loss.
        end_weights: float32[B], weight of each row's end.
        targets: float32[B, 2, L], a teacher's probabilities for start and end times the row's weight in the step's
            loss; float32[B, 2, 0] without a teacher.
        further: int32[B, 2, K], see `Batch.further`.
        key: uint32[2], the key of the dropout masks.
    """

    input_ids: Int32s
    lengths: Int32s
    token_type_ids: Int8s
    starts: Int32s
    ends: Int32s
    start_weights: Floats
    end_weights: Floats
    targets: Floats
    further: Int32s
    key: npt.NDArray[np.uint32]


class TrainEngine(Protocol):
    """Runs steps on one backend, and owns the weights and the optimizer's state meanwhile.

    Attributes:
        devices: Number of devices of all processes.
    """

    devices: int

    def step(self, micros: Sequence[Micro], scalars: Floats) -> tuple[Any, Any]:
        """Run one optimization step over micro batches whose weights add up to one loss.

        Args:
            micros: Their numbers of rows are multiples of the number of devices of this process.
            scalars: float32[5] of `optimizer.step_scalars`.

        Returns:
            The loss and the gradients' norm before clipping; `float()` of them waits for the step.
        """

    def compiled(self) -> bool:
        """Return whether a new kind or shape of step began since the last call, which may have been compiled."""

    def read(self) -> dict[str, list[Floats]]:
        """Return all arrays that the run needs to continue, in the order of the model's weights.

        They are the trained "weights", the optimizer's moments "firsts" and "seconds", and the "frozen" weights, which
        no step changes: with them a run continues right even if the model that it began with has changed since.
        """

    def write(self, arrays: dict[str, list[Floats]]) -> None:
        """Replace what `read` returns."""

    def publish(self) -> None:
        """Copy the weights into the model."""


class SeenShapes:
    """The kinds of steps that an engine has run, for `TrainEngine.compiled`."""

    def __init__(self) -> None:
        self._known: set[Any] = set()
        self._new = False

    def note(self, kind: Any) -> None:
        """Note that a step of some kind begins."""
        self._new |= kind not in self._known
        self._known.add(kind)

    def new(self) -> bool:
        """Return whether a new kind was noted since the last call."""
        new, self._new = self._new, False
        return new


@dataclass
class Position:
    """How far a run is; with the weights and the optimizer's state this decides everything that follows.

    Attributes:
        epoch: Counts from 0.
        batch: Batches done in this epoch.
        step: Optimization steps done.
        update: Updates done: steps without those that float16 skipped because of an overflow.
        passes: Forward passes done, for the dropout masks.
        loss_scale: Loss scale of float16; 1 otherwise.
        steady: Steps since the loss scale changed.
        ended: Whether the run is over: the last epoch is scored and saved, or `patience` has ended it.
        validated: Steps done at the last validation.
        stale: Validations since the best one.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    update: int = 0
    passes: int = 0
    loss_scale: float = 1.0
    steady: int = 0
    ended: bool = False
    validated: int = 0
    stale: int = 0


@dataclass
class TrainState:
    """The part of a run that changes and is not an array; checkpoints keep it.

    Attributes:
        position: How far the run is.
        history: The run's curves.
        best: The validation whose model was saved, None before the first.
    """

    position: Position = field(default_factory=Position)
    history: History = field(default_factory=History)
    best: EpochReport | None = None

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> TrainState:
        """Read what `to_dict` returned; other keys, which a checkpoint has, are ignored.

        Raises:
            UserError: A value is missing, has another type, or is out of its range.
        """
        best = None if state.get("best") is None else _record(EpochReport, state["best"], "best")
        position = _record(Position, state.get("position"), "position")
        history = _record(History, state.get("history"), "history")
        for report in history.epochs:
            _record(EpochReport, report, "history")
        if len({len(history.steps), len(history.losses), len(history.learning_rates)}) != 1:
            raise _unusable("history", "curves of different lengths")
        if not 0 < position.loss_scale < math.inf:
            raise _unusable("position", f"loss_scale {position.loss_scale}")
        if max(position.update, position.validated) > position.step:
            raise _unusable("position", f"more updates or a later validation than its {position.step:,} steps")
        return cls(position, history, best)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-ready."""
        return asdict(self)

    def add(self, report: EpochReport) -> None:
        """Add a validation."""
        self.history.epochs.append(asdict(report))
        self.best = report if report.saved else self.best
        self.position.stale = 0 if report.saved else self.position.stale + 1


def _record(kind: type[Any], values: Any, part: str) -> Any:
    """Make a dataclass of a checkpoint's values; each must have its field's type, and integers must be at least 0."""
    hints = get_type_hints(kind)
    if not isinstance(values, dict) or values.keys() != hints.keys():
        raise _unusable(part, shown(values))
    for name, hint in hints.items():
        items = values[name] if get_origin(hint) is list else [values[name]]
        inner = get_args(hint)[0] if get_origin(hint) is list else hint
        if not isinstance(items, list) or not all(_is(item, get_origin(inner) or inner) for item in items):
            raise _unusable(part, f"{name} {shown(values[name])}")
    return kind(**values)


def _is(value: Any, kind: type[Any]) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value < 2**62
    if kind is float:
        return type(value) is float or (type(value) is int and abs(value) < 2**62)
    return isinstance(value, kind)


def _unusable(part: str, received: str) -> UserError:
    return UserError(
        f"a checkpoint must hold the state of a run as train wrote it; its {part} has {received}: delete that "
        "checkpoint to continue from the one before it, or start again with --overwrite"
    )


def make_micros(
    batches: Sequence[Batch],
    seed: int,
    first_pass: int,
    devices: int,
    totals: tuple[int, int] | None = None,
) -> list[Micro]:
    """Return the inputs of one step's passes.

    A label counts if its row is real and the label lies within the feature. The loss is half the mean over the starts
    that count plus half the mean over the ends that count, as in transformers.

    Args:
        batches: One for each pass.
        seed: The run's seed.
        first_pass: Forward passes done before.
        devices: Padding rows fill the batches up to a multiple of this number.
        totals: Numbers of starts and ends that count in the whole step; None counts those of `batches`, which is right
            in one process.
    """
    counts = [
        [(batch.rows >= 0) & (labels >= 0) & (labels < batch.lengths) for labels in (batch.starts, batch.ends)]
        for batch in batches
    ]
    if totals is None:
        totals = sum(int(pair[0].sum()) for pair in counts), sum(int(pair[1].sum()) for pair in counts)
    micros = []
    for number, (batch, pair) in enumerate(zip(batches, counts, strict=True)):
        highest = batch.input_ids.shape[1] - 1
        weights = [(pair[side] / max(1, 2 * totals[side])).astype(np.float32) for side in (0, 1)]
        starts, ends = (np.clip(labels, 0, highest) for labels in (batch.starts, batch.ends))
        missing = -len(batch.rows) % devices
        further = np.zeros((len(batch.rows), 2, 0), np.int32) if batch.further is None else batch.further
        micros.append(
            Micro(
                _filled(batch.input_ids, missing),
                _filled(batch.lengths, missing, 1),
                _filled(batch.token_type_ids, missing),
                _filled(starts, missing),
                _filled(ends, missing),
                _filled(weights[0], missing),
                _filled(weights[1], missing),
                np.zeros((len(batch.rows) + missing, 2, 0), np.float32),
                _filled(further, missing, -1),
                dropout_key(seed, first_pass + number),
            )
        )
    return micros


def _filled(column: npt.NDArray[Any], missing: int, value: int = 0) -> npt.NDArray[Any]:
    """Return `column` with `missing` more rows."""
    if not missing:
        return column
    return np.concatenate([column, np.full((missing, *column.shape[1:]), value, column.dtype)])
