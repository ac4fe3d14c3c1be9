"""Adam and AdamW, gradient clipping and loss as functions over arrays.

They replace `keras.optimizers` so that the update of all weights is one compiled function on every backend, and the
optimizer's state is a list of plain arrays, which checkpoints keep.
Sources: Kingma & Ba 2015; Loshchilov & Hutter 2019 (decoupled decay); clipping by global norm, Pascanu et al. 2013.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

if TYPE_CHECKING:
    from qa_fast.train.steps import Micro

BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8


def span_loss(
    start_logits: Any,
    end_logits: Any,
    starts: Any,
    ends: Any,
    start_weights: Any,
    end_weights: Any,
    further: Any = None,
) -> Any:
    """Return the weighted sum of the start and end cross-entropies.

    A row with several labels has the loss -log(p1 + p2 + ...): any of its answers is right, none is taught to be wrong,
    and the model may prefer the one that it finds most likely, as scoring does. Source: the summed objective of Clark &
    Gardner 2018, "Simple and Effective Multi-Paragraph Reading Comprehension", over the starts and over the ends. With
    the mean of -log(p) instead, the best model divides its probability among the answers, and its best start and end
    may be of different ones.

    With weights of 1 / (2 n) for the n rows of a batch whose label counts, and 0 for other rows, this is the loss of
    transformers' question answering models: the mean of the two mean cross-entropies over all L positions. Because rows
    have weights, the losses of parts of a batch add up to the loss of the batch.

    Args:
        start_logits: float32[B, L].
        end_logits: float32[B, L].
        starts: int32[B], in [0, L).
        ends: int32[B], in [0, L).
        start_weights: float32[B].
        end_weights: float32[B].
        further: int32[B, 2, K], starts and ends of further labels; numbers outside [0, L) are none.

    Returns:
        float32 scalar.
    """

    def cross_entropy(logits: Any, labels: Any, weights: Any, more: Any) -> Any:
        shifted = logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))
        positions = ops.arange(ops.shape(logits)[-1], dtype="int32")[None, :]
        hot = positions == labels[:, None]
        if more is not None:
            hot = ops.logical_or(hot, ops.any(positions[:, None, :] == more[:, :, None], axis=1))
        right = ops.where(hot, shifted, np.float32(-1e9))
        highest = ops.stop_gradient(ops.max(right, axis=-1, keepdims=True))
        # With one label this is log(1) + its logit.
        rights = ops.log(ops.sum(ops.exp(right - highest), axis=-1)) + highest[:, 0]
        losses = ops.log(ops.sum(ops.exp(shifted), axis=-1)) - rights
        # `where` instead of a product: a padding row must not turn an infinite loss into NaN.
        return ops.sum(ops.where(weights > 0, losses * weights, 0.0))

    start_more, end_more = (None, None) if further is None else (further[:, 0], further[:, 1])
    return cross_entropy(start_logits, starts, start_weights, start_more) + cross_entropy(
        end_logits, ends, end_weights, end_more
    )


def soft_loss(start_logits: Any, end_logits: Any, targets: Any, lengths: Any, temperature: float) -> Any:
    """Return the weighted sum of the divergences KL(teacher || student) of start and end, over each row's own tokens.

    Both distributions are softened: the student's logits are divided by `temperature` here, and the teacher's were when
    its probabilities were computed. Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural
    Network", section 2. The factor temperature squared, which keeps gradients as large as those of labels, is part of
    the rows' weights.

    Args:
        start_logits: float32[B, L]; logits at and beyond a row's length are ignored.
        end_logits: float32[B, L].
        targets: float32[B, 2, L], the teacher's probabilities of start and end times the row's weight; 0 at and beyond
            a row's length.
        lengths: int32[B].
        temperature: Above 0.

    Returns:
        float32 scalar; 0 where student and teacher agree.
    """
    own = ops.arange(ops.shape(start_logits)[-1], dtype="int32")[None, :] < lengths[:, None]
    tiny = np.finfo(np.float32).tiny

    def divergence(logits: Any, masses: Any) -> Any:
        # A large number, not infinity: it is multiplied by a mass of 0.
        soft = ops.where(own, logits / temperature, np.float32(-1e9))
        soft = soft - ops.stop_gradient(ops.max(soft, axis=-1, keepdims=True))
        logs = soft - ops.log(ops.sum(ops.exp(soft), axis=-1, keepdims=True))
        shares = masses / ops.maximum(ops.sum(masses, axis=-1, keepdims=True), tiny)
        return ops.sum(ops.where(masses > 0, masses * (ops.log(ops.maximum(shares, tiny)) - logs), 0.0))

    return divergence(start_logits, targets[:, 0]) + divergence(end_logits, targets[:, 1])


def micro_loss(start_logits: Any, end_logits: Any, micro: Micro, temperature: float | None) -> Any:
    """Return a micro batch's part of its step's loss: that of the labels and, with a temperature, of the teacher."""
    loss = span_loss(
        start_logits, end_logits, micro.starts, micro.ends, micro.start_weights, micro.end_weights, micro.further
    )
    if temperature is None:
        return loss
    return loss + soft_loss(start_logits, end_logits, micro.targets, micro.lengths, temperature)


def global_norm(gradients: Sequence[Any]) -> Any:
    """Return the Euclidean norm of all gradients together, float32 scalar."""
    return ops.sqrt(sum(ops.sum(ops.square(ops.cast(gradient, "float32"))) for gradient in gradients))


def update(
    weights: Sequence[Any],
    gradients: Sequence[Any],
    firsts: Sequence[Any],
    seconds: Sequence[Any],
    scalars: Any,
    *,
    decays: tuple[bool, ...],
) -> tuple[list[Any], list[Any], list[Any], Any]:
    """Do one step of Adam (decay 0) or AdamW over all weights.

    Args:
        weights: float32 tensors.
        gradients: Gradients of the loss times `scalars[4]`, one for each weight.
        firsts: Running means of the gradients.
        seconds: Running means of their squares.
        scalars: float32[5], see `step_scalars`.
        decays: Whether each weight decays: matrices do, biases and norms do not.

    Returns:
        New weights, firsts, seconds, and the gradients' norm before clipping. If that norm is not finite, weights,
        firsts and seconds are returned unchanged.
    """
    rate, decay, clip, count, scale = (scalars[i] for i in range(5))
    norm = global_norm(gradients) / scale
    finite = ops.isfinite(norm)
    factor = ops.where(finite, ops.minimum(1.0, clip / (norm + 1e-6)) / scale, 0.0)
    correct_1 = 1.0 - ops.power(np.float32(BETA_1), count)
    correct_2 = 1.0 - ops.power(np.float32(BETA_2), count)
    new: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for weight, raw, first, second, decays_here in zip(weights, gradients, firsts, seconds, decays, strict=True):
        gradient = ops.cast(raw, "float32") * factor
        m = BETA_1 * first + (1.0 - BETA_1) * gradient
        v = BETA_2 * second + (1.0 - BETA_2) * ops.square(gradient)
        change = (m / correct_1) / (ops.sqrt(v / correct_2) + EPSILON)
        if decays_here:
            change = change + decay * weight
        for values, value, old in zip(new, (weight - rate * change, m, v), (weight, first, second), strict=True):
            values.append(ops.where(finite, value, old))
    return *new, norm


def step_scalars(
    learning_rate: float, weight_decay: float, clip_norm: float, update_number: int, loss_scale: float = 1.0
) -> np.ndarray:
    """Return the numbers that change from step to step, float32[5].

    `update_number` counts from 1; `clip_norm` 0 means no clipping.
    """
    clip = clip_norm if clip_norm > 0 else np.finfo(np.float32).max
    return np.array([learning_rate, weight_decay, clip, update_number, loss_scale], dtype=np.float32)
