"""What the steps of a tokenizer.json are."""

from __future__ import annotations

import itertools
from typing import Any


def normalizers_of(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the steps of a tokenizer's normaliser."""
    normalizer = settings.get("normalizer")
    if not normalizer:
        return []
    steps: list[dict[str, Any]] = normalizer.get("normalizers", [normalizer])
    return steps


def trimming_processors(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the post-processors that leave the spaces of a token out of its offsets."""
    processor = settings.get("post_processor") or {}
    return [
        step
        for step in (processor, *processor.get("processors", []))
        if step.get("type") in ("RobertaProcessing", "ByteLevel") and step.get("trim_offsets", True)
    ]


def byte_alphabet() -> list[str]:
    """Return the character for each byte in a byte-level vocabulary: itself if it is visible, else another one."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return [chr(byte) if byte in visible else chr(next(others)) for byte in range(256)]
