"""Where weights stand in a Hugging Face file: the pieces that a family's list of slots is put together from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """Where one weight of ours stands in a Hugging Face file.

    Attributes:
        path: Our name, such as "block_0/qkv_kernel".
        names: Their names; several are laid side by side along our last axis.
        transposed: Theirs is [out, in], ours [in, out].
        head: Belongs to the span head, which a checkpoint may lack.
    """

    path: str
    names: tuple[str, ...]
    transposed: bool = False
    head: bool = False


def linear(path: str, *names: str, bias: bool = True, head: bool = False) -> list[Slot]:
    """The kernel and bias of a product; several modules of theirs side by side are one of ours."""
    slots = [Slot(f"{path}_kernel", tuple(f"{name}.weight" for name in names), transposed=True, head=head)]
    if bias:
        slots.append(Slot(f"{path}_bias", tuple(f"{name}.bias" for name in names), head=head))
    return slots


def norm(path: str, name: str, bias: bool = True, head: bool = False) -> list[Slot]:
    """The scale and shift of a norm."""
    slots = [Slot(f"{path}_gamma", (f"{name}.weight",), head=head)]
    return [*slots, Slot(f"{path}_beta", (f"{name}.bias",), head=head)] if bias else slots


def table(path: str, name: str) -> list[Slot]:
    """The rows of an embedding."""
    return [Slot(path, (f"{name}.weight",))]


def span_head(name: str = "qa_outputs") -> list[Slot]:
    """The product with [H, 2] that most families end in."""
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
    """The slots of blocks with norms behind their sums, under a family's names.

    Args:
        count: How many.
        base: What a block's names begin with, its number as "{}".
        qkv: The products of query, key and value.
        output: Attention's output product.
        attention_norm: The norm behind it.
        inner: First product of the feed-forward part.
        outer: Its second.
        ffn_norm: The norm behind it.
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
