"""Choose the engine and the precision that read fastest with a model on this device: as measured, or else as expected.

The expected order needs no measurement, so that the first answer does not wait for one: int8 if the model has a recipe,
in OpenVINO if it was scored there and the processor has instructions for bfloat16, otherwise in ONNX Runtime; bfloat16
in OpenVINO; float32 in ONNX Runtime, then in OpenVINO, then Keras. It is the order that `bench/reading.py` found on
processors with AMX (without int8 in OpenVINO), with AVX-512 VNNI and BF16, and with AVX2 alone. ONNX Runtime with a
recipe that keeps products of blocks in float32 comes after bfloat16, which was 1.26 times as fast.

`measure` measures the ways in turns. What it found decides for every model of the same shape, and of the same products
in float32 beside int8, until a version of qa-fast or of an engine, the processor or the number of threads changes.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import xxhash

from qa_fast.cache import cache_folder, keep, read_entry, writable
from qa_fast.errors import MissingExtraError, UserError
from qa_fast.infer.graphs import Say, held, run_module
from qa_fast.infer.recipe import read_recipe
from qa_fast.model.folder import folder_config
from qa_fast.parallel import processors
from qa_fast.schema import ENGINE_PRECISIONS, ENGINES
from qa_fast.version import __version__

PACKAGES = {"keras": "keras", "onnx": "onnxruntime", "openvino": "openvino"}
# Limit of a measurement; the largest models take half a minute to open.
_SECONDS = 600.0
_BACKENDS = ("tensorflow", "jax")
# If one of these devices exists and nothing is measured, Keras is chosen: no other engine here computes on one.
_ACCELERATORS = ("/dev/nvidia0", "/dev/kfd")


class Way(NamedTuple):
    """An engine and the precision of its products."""

    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


def installed() -> list[str]:
    """Return the engines that can be imported."""
    engines = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package) is not None]
    if "keras" in engines and not any(importlib.util.find_spec(backend) is not None for backend in _BACKENDS):
        engines.remove("keras")
    return engines


def ways(
    engine: str, precision: str, engines: Sequence[str], *, scored: Sequence[str], bfloat16: bool, whole: bool = True
) -> list[Way]:
    """Return the ways that match the user's options, the one that is expected to be the fastest first.

    Args:
        engine: One of `ENGINES`.
        precision: One of `ENGINE_PRECISIONS`.
        engines: The installed engines.
        scored: The engines in which the model's recipe for int8 was scored; none without a recipe.
        bfloat16: Whether OpenVINO computes in bfloat16 on this device.
        whole: Whether the recipe rounds the products of all blocks.

    Raises:
        UserError: An option is invalid, or no way matches both.
        MissingExtraError: The engine is not installed, or no engine is.
    """
    for name, value, known in (("engine", engine, ENGINES), ("precision", precision, ENGINE_PRECISIONS)):
        if value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}; received {value!r}")
    wanted = [name for name in engines if engine in ("auto", name)]
    if not wanted:
        extra = {"auto": "answer", "onnx": "answer", "openvino": "openvino", "keras": "train"}[engine]
        raise MissingExtraError("reading with a model" if engine == "auto" else f"engine {engine}", extra,
                                PACKAGES.get(engine, "onnxruntime"))  # fmt: skip
    # What OpenVINO does not round is computed in bfloat16, and so are the products that a recipe keeps.
    able = [name for name in ("openvino", "onnx") if name in wanted and (bfloat16 or name == "onnx")]
    rounded = [Way(name, "int8") for name in able if name in scored]
    if precision == "int8" and able and not rounded:
        raise UserError(
            "int8 must be scored before it is used; received precision int8 for a model without a recipe for these "
            f"weights, this processor and {' or '.join(able)}: run qa-fast quantize MODEL SHARDS"
        )
    short = [Way("openvino", "bfloat16")] if bfloat16 else []
    offered = [
        *sorted(rounded + short, key=lambda way: not whole and way == ("onnx", "int8")),
        Way("onnx", "float32"),
        *([] if precision == "auto" and bfloat16 else [Way("openvino", "float32")]),  # slower than in bfloat16
        # Keras measures its own products.
        *(Way("keras", kind) for kind in (("auto",) if precision == "auto" else ("float32", "bfloat16", "float16"))),
    ]
    matching = [way for way in offered if way.engine in wanted and precision in ("auto", way.precision)]
    if not matching:
        raise UserError(
            f"the engine must support the precision on this device; received {engine} and {precision}: choose "
            f"{' or '.join(name for name in ('float32', 'auto') if name != precision)}, or another engine"
        )
    return matching


def preferred(folder: Path, open_ways: Sequence[Way]) -> tuple[list[Way], str]:
    """Return ways, the one to read with first, and the reason.

    Args:
        folder: The model folder.
        open_ways: Ways from `ways`.
    """
    if len(open_ways) == 1:
        return list(open_ways), "the only way open"
    facts = _facts(folder, open_ways)
    body = read_entry(_place(facts), facts)
    if body is None:
        with suppress(UserError):  # where `measure` keeps it if the cache cannot be written
            body = read_entry(writable(_place(facts)), facts)
    if body is None:
        if _accelerators() and any(way.engine == "keras" for way in open_ways):
            first = sorted(open_ways, key=lambda way: way.engine != "keras")
            return first, "the only engine that computes on the accelerator"
        return list(open_ways), "expected to be the fastest here; --measure tells"
    speeds = json.loads(body)["tokens_a_second"]
    order = sorted(open_ways, key=lambda way: -speeds.get(str(way), 0.0))
    listed = ", ".join(f"{way} {round(speeds[str(way)]):,}" for way in order if str(way) in speeds)
    return order, f"tokens a second as measured here: {listed}"


def measure(folder: Path, open_ways: Sequence[Way], say: Say | None = None) -> None:
    """Measure ways in a process of its own, and keep the speeds for `preferred`; a single way is not measured.

    Raises:
        UserError: No way could be measured.
    """
    if len(open_ways) == 1:
        return
    facts = _facts(folder, open_ways)
    place = writable(_place(facts))
    with held(place):
        say = say or (lambda line: None)
        say(f"measuring {', '.join(map(str, open_ways))} on this device, in turns")
        out = run_module("qa_fast.infer.measure", [str(folder), *map(str, open_ways)], seconds=_SECONDS)
        found = json.loads(out.splitlines()[-1])
        for problem in found["problems"]:
            say(f"this engine does not work here: {problem}")
        if not found["tokens_a_second"]:
            raise UserError(f"at least one engine must open the model; none does: {'; '.join(found['problems'])}")
        keep(place, json.dumps(found | {"measured_on": json.loads(facts)}).encode(), facts)


def _place(facts: bytes) -> Path:
    return cache_folder() / "speeds" / f"{xxhash.xxh3_64_hexdigest(facts)}.json"


def _accelerators() -> list[str]:
    return [name for name in _ACCELERATORS if Path(name).exists()]


def _facts(folder: Path, open_ways: Sequence[Way]) -> bytes:
    """Return everything that a measurement depends on, as JSON."""
    versions = {"qa-fast": __version__}
    for name in ("onnxruntime", "openvino", "keras", *_BACKENDS):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    recipe = read_recipe(folder) if any(way.precision == "int8" for way in open_ways) else None
    facts = {
        "ways": sorted(map(str, open_ways)),
        "kept": [] if recipe is None else recipe.rounding.kept,
        "versions": versions,
        "processor": [platform.machine(), *_processor().splitlines()],
        "threads": processors(),
        "accelerators": _accelerators(),
        "backend": os.environ.get("KERAS_BACKEND"),
        "model": dataclasses.asdict(folder_config(folder)),
    }
    return json.dumps(facts).encode()


@cache
def _processor() -> str:
    """Return the processor's name and features."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return platform.processor()
    return "\n".join(line for line in text.splitlines() if line.startswith(("model name", "flags", "Features")))


def has_bfloat16() -> bool:
    """Return whether the processor, and therefore OpenVINO, multiplies in bfloat16; OpenVINO takes 0.2 s to answer."""
    return any(flag in _processor().split() for flag in ("avx512_bf16", "amx_bf16"))


def sums_bytes() -> bool:
    """Return whether the processor sums products of bytes without overflow, so that weights may have eight bits.

    On x86 that is VNNI; older processors add pairs of products in int16.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64", "x86", "i686")
    return not is_x86 or any(flag in _processor().split() for flag in ("avx512_vnni", "avx_vnni"))
