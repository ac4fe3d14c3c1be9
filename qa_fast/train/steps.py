"""What one optimisation step is given: micro batches with row weights, and where the run stands."""

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
        start_weights: float32[B], what each row's start counts in the step's loss.
        end_weights: float32[B].
        targets: float32[B, 2, L], a teacher's probabilities for start and end times what the row counts in the step's
            loss; float32[B, 2, 0] without one.
        key: uint32[2], of the dropout masks.
    """

    input_ids: Int32s
    lengths: Int32s
    token_type_ids: Int8s
    starts: Int32s
    ends: Int32s
    start_weights: Floats
    end_weights: Floats
    targets: Floats
    key: npt.NDArray[np.uint32]


class Engine(Protocol):
    """Runs steps on one backend and owns the weights and the optimizer's state while it does.

    Attributes:
        devices: Of all processes.
    """

    devices: int

    def step(self, micros: Sequence[Micro], scalars: Floats) -> tuple[Any, Any]:
        """One optimisation step over micro batches whose weights add up to one loss.

        Args:
            micros: Their row counts are multiples of the devices of this process.
            scalars: float32[5] of `optimizer.step_scalars`.

        Returns:
            The loss and the gradients' norm before clipping; `float()` of them waits for the step.
        """

    def compiled(self) -> bool:
        """Whether steps of a new kind or shape were begun since this was last asked, so that they may have compiled."""

    def read(self) -> dict[str, list[Floats]]:
        """Weights, firsts and seconds, in the order of the model's weights."""

    def write(self, arrays: dict[str, list[Floats]]) -> None:
        """Set what `read` gives."""

    def publish(self) -> None:
        """Make the weights those of the model."""


class Met:
    """What an engine has met so far, for `Engine.compiled`."""

    def __init__(self) -> None:
        self._known: set[Any] = set()
        self._new = False

    def note(self, kind: Any) -> None:
        """Something is begun."""
        self._new |= kind not in self._known
        self._known.add(kind)

    def new(self) -> bool:
        """Whether any was new since this was last asked."""
        found, self._new = self._new, False
        return found


@dataclass
class Position:
    """Where a run stands; with the weights and the optimizer's state this decides all that follows.

    Attributes:
        epoch: Counts from 0.
        batch: Batches done in this epoch.
        step: Optimisation steps done.
        update: Updates done: steps but those skipped for an overflow in float16.
        passes: Forward passes done, for the dropout masks.
        loss_scale: Of float16; 1 otherwise.
        steady: Steps since the loss scale changed.
        ended: The last epoch is scored and saved, or patience has run out.
        validated: Steps done at the last validation.
        stale: Validations since the best.
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
class Standing:
    """Where a run stands and how it came there: all of a checkpoint that is no array and may change.

    Attributes:
        position: What decides the next step.
        history: Its curves.
        best: The validation whose model was saved, None before the first.
    """

    position: Position = field(default_factory=Position)
    history: History = field(default_factory=History)
    best: EpochReport | None = None

    @classmethod
    def of(cls, state: dict[str, Any]) -> Standing:
        """What `to_dict` gives, or a checkpoint's state, which holds that.

        Raises:
            UserError: A value is missing, of another type, or out of its range.
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
        """JSON-ready."""
        return asdict(self)

    def add(self, report: EpochReport) -> None:
        """Take in what a validation found."""
        self.history.epochs.append(asdict(report))
        self.best = report if report.saved else self.best
        self.position.stale = 0 if report.saved else self.position.stale + 1


def _record(kind: type[Any], values: Any, part: str) -> Any:
    """A dataclass of a checkpoint's values, each of its field's type; whole numbers are at least 0."""
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
        f"a checkpoint must say where a run stands as train wrote it; its {part} has {received}: delete that "
        "checkpoint to go on from the one before it, or begin anew with --overwrite"
    )


def make_micros(
    batches: Sequence[Batch],
    seed: int,
    first_pass: int,
    devices: int,
    totals: tuple[int, int] | None = None,
) -> list[Micro]:
    """The arguments of one step's passes.

    A label counts where its row is a real one and the label lies within the feature; the loss is the mean over those,
    for starts and for ends, and half of each (transformers ignores labels outside likewise).

    Args:
        batches: One for each pass.
        seed: Of the run.
        first_pass: Forward passes done before.
        devices: Rows are filled up to a multiple of it.
        totals: How many starts and ends count in the whole step; None counts those of `batches`, which hold all rows
            but where other processes have the rest.
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
                dropout_key(seed, first_pass + number),
            )
        )
    return micros


def _filled(column: npt.NDArray[Any], missing: int, value: int = 0) -> npt.NDArray[Any]:
    """`column` with `missing` rows more."""
    if not missing:
        return column
    return np.concatenate([column, np.full((missing, *column.shape[1:]), value, column.dtype)])
