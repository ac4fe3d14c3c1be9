"""The calibration of a model: a map from its probabilities to the probability that an answer is right.

The softmax over the best spans of a document and no answer orders answers, but is not the share of right ones. With p
for an answer's softmax probability and n for that of no answer, the fitted probability is

    sigmoid(slope · logit(p) + no_answer · logit(n) + offset)

This is Platt's scaling (1999) with one more input, since a document in which no answer is unlikely is more often
answered rightly. `slope` is above 0, so that answers keep their order and the threshold of no answer its meaning. The
probabilities of several spans may add up to more than 1, because several spans may be right: with and without an
article, for example. A temperature alone was measured and is worse; docs/reliable.md has the figures.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError, shown

if TYPE_CHECKING:
    from qa_fast.infer.decode import BestSpans

Float64s = npt.NDArray[np.float64]
# Probabilities nearer to 0 or 1 count as this near, so that logarithms stay finite.
_LEAST = 1e-12
# Far beyond what fitting gives.
_MOST = 1000.0
NOT_CALIBRATED = (
    "the model is not calibrated: scores order its answers, and are not the probability that an answer is right; "
    "qa-fast calibrate fits this"
)


@dataclass(frozen=True)
class Calibration:
    """The fitted map, and what it was fitted and measured on.

    Attributes:
        slope: Factor of the logit of the answer's softmax probability, above 0.
        no_answer: Factor of the logit of no answer's softmax probability.
        offset: Is added.
        data: Name of the data.
        split: Name of the split, one half of whose documents the map was fitted on.
        fingerprint: That of the shards, from their index.
        seed: Seed by which the documents were divided.
        questions: Number of questions that it was fitted on.
        error_before: Expected calibration error on the other half before calibration.
        error: The same with the calibration.
    """

    slope: float
    no_answer: float
    offset: float
    data: str
    split: str
    fingerprint: str
    seed: int
    questions: int
    error_before: float
    error: float

    @classmethod
    def of_json(cls, values: Any) -> Calibration:
        """Check and return the calibration that a JSON object holds.

        Raises:
            UserError: A value is missing, unknown, of another type or out of bounds.
        """
        names = {field.name: str(field.type) for field in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names.keys():
            raise UserError(
                f"calibration must hold {', '.join(names)}; received {shown(values, 80)}: remove it, and calibrate "
                "again"
            )
        for name, kind in names.items():
            value, least = values[name], -_MOST if name in ("no_answer", "offset") else 0
            usable = isinstance(value, str)
            if kind != "str":
                is_number = isinstance(value, int | float if kind == "float" else int) and not isinstance(value, bool)
                usable = is_number and least <= value <= (math.inf if kind == "int" else _MOST)
            if not usable:
                raise UserError(
                    f"calibration must hold a usable {name}; received {shown(value)}: remove it, and calibrate again"
                )
        if values["slope"] == 0:
            raise UserError("the slope of a calibration must be above 0; received 0: remove it, and calibrate again")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON-ready values by name."""
        return asdict(self)

    @property
    def origin(self) -> str:
        """What it was fitted on, in words."""
        return f"fitted on {self.questions:,} questions of {self.data}, {self.split}"

    def __call__(self, probability: Any, no_answer: Any) -> Float64s:
        """Return the probability that answers are right.

        Args:
            probability: float64[...], softmax probabilities of answers, or of no answer itself.
            no_answer: float64, that of no answer in the same softmax; of a shape that broadcasts.

        Returns:
            float64[...], rising with `probability`.

        Examples:
            >>> calibration(np.array([0.8, 0.1]), 0.05)
        """
        inputs = inputs_of(probability, no_answer)
        return sigmoid(inputs @ np.array([self.slope, self.no_answer, self.offset]))


def inputs_of(probability: Any, no_answer: Any) -> Float64s:
    """Return the inputs of the map, float64[..., 3]: logit(p), logit(n) and 1; see `Calibration.__call__`."""
    p, n = (np.clip(value, _LEAST, 1 - _LEAST) for value in np.broadcast_arrays(probability, no_answer))
    return np.stack([np.log(p) - np.log1p(-p), np.log(n) - np.log1p(-n), np.ones_like(p)], axis=-1)


def sigmoid(values: Float64s) -> Float64s:
    """Return 1 / (1 + exp(-x)) without overflow."""
    result: Float64s = 0.5 * (1 + np.tanh(values / 2))
    return result


def scores_of(
    spans: BestSpans, null_threshold: float | None, calibration: Calibration | None
) -> tuple[Float64s, Float64s]:
    """Return the `score` of each candidate, float64[E, N], and of no answer, float64[E].

    They are the probabilities that these are right, or without a calibration those of `BestSpans.probabilities`.

    Args:
        spans: Candidates of E examples.
        null_threshold: The threshold for no answer; None is 0.
        calibration: The model's; None if it has none.
    """
    probability, no_answer = spans.probabilities(null_threshold or 0.0)
    if calibration is None:
        return probability, no_answer
    return calibration(probability, no_answer[:, None]), calibration(no_answer, no_answer)
