"""Choose the engine that is fastest with a model on this device: measure each in its own process, and cache the result.

The cached result belongs to an architecture, not to weights, so that a newly trained model is not measured again. A
change of an engine's version, the processor or config.json causes a new measurement.
"""

from __future__ import annotations

import importlib.util
import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import xxhash

from qa_fast.cache import cache_folder, keep, read_entry, writable
from qa_fast.errors import MissingExtraError, UserError
from qa_fast.infer.graphs import Say, held, run_module
from qa_fast.model.files import plain_file
from qa_fast.parallel import processors
from qa_fast.schema import ENGINE_PRECISIONS, ENGINES

PACKAGES = {"keras": "keras", "onnx": "onnxruntime", "openvino": "openvino"}
# Limit of one measurement; the largest models take half a minute to open.
_SECONDS = 180.0
# How many times as fast a way must be to be chosen over an earlier one.
_WORTHWHILE = 1.1
_BACKENDS = ("tensorflow", "jax")
# If one of these devices exists, Keras is chosen: it is the only engine here that computes on an accelerator.
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


def ways(engine: str, precision: str, engines: Sequence[str], *, quantized: bool, bfloat16: bool) -> list[Way]:
    """Return the ways that match the user's options, in order of preference.

    Args:
        engine: One of `ENGINES`.
        precision: One of `ENGINE_PRECISIONS`.
        engines: The installed engines.
        quantized: Whether the model has a recipe for int8.
        bfloat16: Whether OpenVINO computes in bfloat16 on this device.

    Raises:
        UserError: An option is invalid, or no way matches both.
        MissingExtraError: The engine is not installed, or no engine is.
    """
    for name, value, known in (("engine", engine, ENGINES), ("precision", precision, ENGINE_PRECISIONS)):
        if value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}; received {value!r}")
    wanted = [name for name in ("onnx", "openvino", "keras") if name in engines and engine in ("auto", name)]
    if not wanted:
        extra = {"auto": "answer", "onnx": "answer", "openvino": "openvino", "keras": "train"}[engine]
        raise MissingExtraError("reading with a model" if engine == "auto" else f"engine {engine}", extra,
                                PACKAGES.get(engine, "onnxruntime"))  # fmt: skip
    if precision == "int8" and not quantized:
        raise UserError(
            "int8 must be scored before it is used; received precision int8 for a model without a recipe for these "
            "weights: run qa-fast quantize MODEL SHARDS"
        )
    offered = {
        "onnx": ["float32", *(["int8"] if quantized else [])],
        "openvino": ["bfloat16", "float32"] if bfloat16 else ["float32"],
        # Keras measures its own products.
        "keras": ["auto"] if precision == "auto" else ["float32", "bfloat16", "float16"],
    }
    matching = [Way(name, kind) for name in wanted for kind in offered[name] if precision in (kind, "auto")]
    if precision == "auto" and bfloat16:  # OpenVINO is faster in bfloat16 than in float32
        matching = [way for way in matching if way != Way("openvino", "float32")]
    if not matching:
        raise UserError(
            f"the engine must support the precision on this device; received {engine} and {precision}: choose "
            f"{' or '.join(name for name in ('float32', 'auto') if name != precision)}, or another engine"
        )
    return matching


def fastest_way(folder: Path, open_ways: Sequence[Way], say: Say | None = None) -> tuple[Way, str]:
    """Return the fastest of some ways for a model, and the reason.

    Raises:
        UserError: No way could be measured.
    """
    if len(open_ways) == 1:
        return open_ways[0], "the only way open"
    if any(Path(name).exists() for name in _ACCELERATORS):
        for way in open_ways:
            if way.engine == "keras":
                return way, "the only engine that computes on the accelerator"
    place = cache_folder() / "speeds" / f"{_key(folder, open_ways)}.json"
    speeds = _cached(place)
    if speeds is None:
        place = writable(place)
        with held(place):
            speeds = _cached(place) or _measured(folder, open_ways, place, say)
    best = fastest(open_ways, speeds)
    listed = ", ".join(f"{name} {round(speed):,}" for name, speed in sorted(speeds.items(), key=lambda item: -item[1]))
    return best, f"tokens a second as measured here: {listed}"


def fastest(open_ways: Sequence[Way], speeds: Mapping[str, float]) -> Way:
    """Return the first way that no other beats by a tenth: smaller differences are noise.

    Args:
        open_ways: Ways in order of preference.
        speeds: Tokens per second by the way as text, for each way that could be measured.
    """
    most = max(speeds.get(str(way), 0.0) for way in open_ways)
    return next(way for way in open_ways if _WORTHWHILE * speeds.get(str(way), 0.0) >= most)


def _key(folder: Path, open_ways: Sequence[Way]) -> str:
    """Return a hash of everything that a measurement depends on."""
    versions = {}
    for name in ("onnxruntime", "openvino", "keras", *_BACKENDS):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    facts = [sorted(map(str, open_ways)), versions, platform.machine(), _processor(), processors()]
    state = xxhash.xxh3_64(json.dumps(facts).encode())
    state.update((plain_file(folder, "config.json") or folder / "config.json").read_bytes())
    return state.hexdigest()


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


def _cached(place: Path) -> dict[str, float] | None:
    """Return the speeds in a file; None if it is missing or damaged."""
    body = read_entry(place)
    return None if body is None else json.loads(body)


def _measured(folder: Path, open_ways: Sequence[Way], place: Path, say: Say | None) -> dict[str, float]:
    """Measure each way in its own process, and cache the speeds."""
    if say is not None:
        say(f"measuring {', '.join(map(str, open_ways))} on this device, once")
    speeds, problems = {}, []
    for way in open_ways:
        try:
            speeds[str(way)] = float(
                run_module("qa_fast.infer.measure", [str(folder), *way], seconds=_SECONDS).split()[-1]
            )
        except (UserError, RuntimeError, ValueError, IndexError) as error:
            problems.append(f"{way}: {str(error).strip().splitlines()[-1]}")
            if say is not None:
                say(f"this engine does not work here: {problems[-1]}")
    if not speeds:
        raise UserError(f"at least one engine must open the model; none does: {'; '.join(problems)}")
    keep(place, json.dumps(speeds).encode())
    return speeds
