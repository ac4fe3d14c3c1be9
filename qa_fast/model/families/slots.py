"""Slots: the places of weights in a Hugging Face file. A family's list of slots is built from these functions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """The place of one of our weights in a Hugging Face file.

    Attributes:
        path: Our name, such as "block_0/qkv_kernel".
        names: Names in the file; several tensors are concatenated along our last axis.
        transposed: Whether the file has [out, in] where we have [in, out].
        head: Whether the weight belongs to the span head, which a checkpoint may lack.
    """

    path: str
    names: tuple[str, ...]
    transposed: bool = False
    head: bool = False


def linear(path: str, *names: str, bias: bool = True, head: bool = False) -> list[Slot]:
    """Return the kernel and bias of a product, which may combine several modules of the file."""
    slots = [Slot(f"{path}_kernel", tuple(f"{name}.weight" for name in names), transposed=True, head=head)]
    if bias:
        slots.append(Slot(f"{path}_bias", tuple(f"{name}.bias" for name in names), head=head))
    return slots


def norm(path: str, name: str, bias: bool = True, head: bool = False) -> list[Slot]:
    """Return the scale and shift of a norm."""
    slots = [Slot(f"{path}_gamma", (f"{name}.weight",), head=head)]
    return [*slots, Slot(f"{path}_beta", (f"{name}.bias",), head=head)] if bias else slots


def table(path: str, name: str) -> list[Slot]:
    """Return the rows of an embedding."""
    return [Slot(path, (f"{name}.weight",))]


def span_head(name: str = "qa_outputs") -> list[Slot]:
    """Return the final product with [H, 2] of most families."""
    return linear("head/output", name, head=True)


def blocks(
    count: int,
    base: str,
    *,
    qkv: tuple[str, str, str],
    output: str,
    attention_norm: str,
    inner: str,
    outer: str,
    ffn_norm: str,
) -> list[Slot]:
    """Return the slots of blocks whose norms follow the sums.

    Args:
        count: Number of blocks.
        base: First part of a block's names, with "{}" for its number.
        qkv: Names of the products of query, key and value.
        output: Name of attention's output product.
        attention_norm: Name of the norm after attention.
        inner: Name of the first product of feed-forward.
        outer: Name of the second product.
        ffn_norm: Name of the norm after feed-forward.
    """
    slots = []
    for index in range(count):
        ours, theirs = f"block_{index}", base.format(index)
        slots += linear(f"{ours}/qkv", *(f"{theirs}.{part}" for part in qkv))
        slots += linear(f"{ours}/output", f"{theirs}.{output}")
        slots += norm(f"{ours}/attention_norm", f"{theirs}.{attention_norm}")
        slots += linear(f"{ours}/inner", f"{theirs}.{inner}")
        slots += linear(f"{ours}/outer", f"{theirs}.{outer}")
        slots += norm(f"{ours}/ffn_norm", f"{theirs}.{ffn_norm}")
    return slots
