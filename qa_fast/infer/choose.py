"""Which engine reads fastest with a model on this device: measured, in processes of their own, and remembered.

What is remembered belongs to an architecture, not to weights: a model trained anew need not be measured anew. It is
measured again where an engine's version, the processor or config.json is another.
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

from qa_fast.errors import MissingExtraError, UserError
from qa_fast.infer.engine import ENGINES, PRECISIONS
from qa_fast.infer.graphs import Say, cannot_write, held, run_module
from qa_fast.model.files import plain_file
from qa_fast.parallel import processors
from qa_fast.sources.cache import cache_folder
from qa_fast.store import write_whole

PACKAGES = {"keras": "keras", "onnx": "onnxruntime", "openvino": "openvino"}
# That one measurement may take; the largest models need half a minute to be read once.
_SECONDS = 180.0
# Times as fast that a way must be to be taken before one that comes before it.
_WORTHWHILE = 1.1
_BACKENDS = ("tensorflow", "jax")
# Where it stands, Keras is the engine: nothing else here computes on an accelerator.
_ACCELERATORS = ("/dev/nvidia0", "/dev/kfd")


class Way(NamedTuple):
    """An engine and the precision of its products."""

    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


def installed() -> list[str]:
    """The engines that can be imported here, in no order."""
    found = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package) is not None]
    if "keras" in found and not any(importlib.util.find_spec(backend) is not None for backend in _BACKENDS):
        found.remove("keras")
    return found


def ways(engine: str, precision: str, there: Sequence[str], *, quantized: bool, bfloat16: bool) -> list[Way]:
    """The ways that a wish leaves open.

    Args:
        engine: One of `ENGINES`.
        precision: One of `PRECISIONS`.
        there: `installed`.
        quantized: Whether the model may be read in int8.
        bfloat16: Whether OpenVINO computes in bfloat16 on this device.

    Raises:
        UserError: The wish is none, or there is no way for it.
        MissingExtraError: The engine is not installed, or none is.
    """
    for name, value, known in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}; received {value!r}")
    wanted = [name for name in ("onnx", "openvino", "keras") if name in there and engine in ("auto", name)]
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
        "keras": ["auto"] if precision in ("auto", "int8") else ["float32", "bfloat16", "float16"],
    }
    found = [
        Way(name, kind) for name in wanted for kind in offered[name] if kind == precision or "auto" in (kind, precision)
    ]
    if precision == "int8":
        found = [way for way in found if way.precision == "int8"]
    if precision == "auto":  # of float32 and bfloat16 OpenVINO is faster with the latter, where there is the latter
        found = [way for way in found if way != Way("openvino", "float32") or not bfloat16]
    if not found:
        raise UserError(
            f"engine and precision must go together here; received {engine} and {precision}: choose "
            f"{' or '.join(name for name in ('float32', 'auto') if name != precision)}, or another engine"
        )
    return found


def fastest_way(folder: Path, open_ways: Sequence[Way], say: Say | None = None) -> tuple[Way, str]:
    """The fastest of some ways for a model, and why.

    Raises:
        UserError: No way could be measured.
    """
    if len(open_ways) == 1:
        return open_ways[0], "the only way open"
    if any(Path(name).exists() for name in _ACCELERATORS):
        for way in open_ways:
            if way.engine == "keras":
                return way, "it alone computes on the accelerator here"
    place = cache_folder() / "speeds" / f"{_key(folder, open_ways)}.json"
    speeds = _remembered(place)
    if speeds is None:
        with held(place):
            speeds = _remembered(place) or _measured(folder, open_ways, place, say)
    best = fastest(open_ways, speeds)
    told = ", ".join(f"{name} {round(speed):,}" for name, speed in sorted(speeds.items(), key=lambda item: -item[1]))
    return best, f"tokens a second as measured here: {told}"


def fastest(open_ways: Sequence[Way], speeds: Mapping[str, float]) -> Way:
    """The first of some ways that no other beats by a tenth: less than that is noise, and earlier ways are lighter.

    Args:
        open_ways: In the order in which they are preferred, such as `ways` gives.
        speeds: By a way's text; one that is not there could not be measured.
    """
    most = max(speeds.get(str(way), 0.0) for way in open_ways)
    return next(way for way in open_ways if _WORTHWHILE * speeds.get(str(way), 0.0) >= most)


def _key(folder: Path, open_ways: Sequence[Way]) -> str:
    """Of everything that a measurement hangs on."""
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
    """What the processor calls itself, with what it can do."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return platform.processor()
    return "\n".join(line for line in text.splitlines() if line.startswith(("model name", "flags", "Features")))


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16, so that OpenVINO does; asking OpenVINO itself takes 0.2 s."""
    return any(flag in _processor().split() for flag in ("avx512_bf16", "amx_bf16"))


def _remembered(place: Path) -> dict[str, float] | None:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    known = isinstance(found, dict) and found and all(type(speed) is float and speed > 0 for speed in found.values())
    return found if known else None


def _measured(folder: Path, open_ways: Sequence[Way], place: Path, say: Say | None) -> dict[str, float]:
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
                say(f"it does not read here: {problems[-1]}")
    if not speeds:
        raise UserError(f"one engine at least must read the model; none does: {'; '.join(problems)}")
    try:
        write_whole(place, json.dumps(speeds).encode())
    except OSError as error:
        raise cannot_write(place, error) from None
    return speeds
