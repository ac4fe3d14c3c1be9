"""A learning rate range test: a short run whose rate rises by the same factor each step, and what its losses say.

Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3 (arXiv 1506.01186). The loss
falls once the rate is large enough to learn with and rises where it is too large; a tenth of the rate at which the
smoothed loss is lowest is a highest rate to begin with (what fastai's finder calls `minimum`). One short run says so:
quality is what `sweep` measures.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qa_fast.errors import UserError
from qa_fast.train.config import TrainConfig
from qa_fast.train.losses import LossNotANumber
from qa_fast.train.report import EpochReport, StepReport, smoothed

HIGHEST = 1e-2  # the last step's rate; the first one's is a ten thousandth of it, see `schedule.learning_rate_at`
FEWEST = 10  # points that a curve is read from
_SMOOTHING = 0.9


@dataclass(frozen=True)
class RateTest:
    """The curve of a test.

    Attributes:
        rates: Learning rate of each step, rising.
        losses: Loss of each step, smoothed.
        suggested: Highest learning rate to begin with.
    """

    rates: list[float]
    losses: list[float]
    suggested: float


def rate_test(shards: Sequence[str], config: TrainConfig, say: Callable[[str], None], steps: int = 100) -> RateTest:
    """Run the test; nothing of it is kept.

    Args:
        shards: As those of `train`.
        config: Options of the run; schedule, rate, length, validation and `out` are the test's own.
        say: Told what is chosen and how it goes.
        steps: Of the test.

    Raises:
        UserError: `train` refuses the run, or it ended before there was a curve.
    """
    from qa_fast.train.loop import train

    points: list[tuple[float, float]] = []

    def note(event: StepReport | EpochReport | str) -> None:
        if isinstance(event, StepReport):
            points.append((event.learning_rate, event.loss))
        elif isinstance(event, str):
            say(event)

    with tempfile.TemporaryDirectory(prefix="qa-fast-rates-") as scratch:
        own = replace(
            config,
            out=str(Path(scratch) / "model"),
            schedule="range",
            learning_rate=HIGHEST,
            epochs=steps,  # at least a step each
            max_steps=steps,
            log_every=1,
            steps_per_execution=1,
            checkpoint_every=0,
            validation="",
            validation_examples=None,
            validate_every=None,
            patience=None,
            resume=False,
        )
        try:
            train(shards, own, note)
        except LossNotANumber:  # where the curve ends
            say(f"the loss is not a number from a rate of about {points[-1][0] if points else 0:.1e} on")
    return read_curve([rate for rate, _ in points], [loss for _, loss in points])


def read_curve(rates: list[float], losses: list[float]) -> RateTest:
    """What a curve suggests: a tenth of the rate at its lowest smoothed loss.

    Raises:
        UserError: There are too few points.
    """
    if len(rates) < FEWEST:
        raise UserError(
            f"a range test needs {FEWEST} steps before the loss stops being a number; received {len(rates)}: "
            "look at the data with 'qa-fast show'"
        )
    curve = smoothed(losses, _SMOOTHING)
    # The first points are a mean of next to nothing: a lucky batch there is no minimum.
    lowest = min(range(FEWEST // 2, len(curve)), key=curve.__getitem__)
    return RateTest(rates, curve, float(f"{rates[lowest] / 10:.1e}"))


def drawn(test: RateTest, rows: int = 16, width: int = 40) -> Iterator[str]:
    """Lines of a chart on the terminal: rates down, the smoothed loss to the right."""
    low, high = min(test.losses), max(test.losses)
    for number in range(min(rows, len(test.rates))):
        at = round(number * (len(test.rates) - 1) / max(1, min(rows, len(test.rates)) - 1))
        share = (test.losses[at] - low) / (high - low) if high > low else 0.0
        yield f"{test.rates[at]:>8.1e}  {test.losses[at]:>8.3f}  {'#' * (1 + math.floor(share * (width - 1)))}"
