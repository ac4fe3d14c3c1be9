"""Measures training and reading on a GPU with JAX, beside torch on the same batches: one JSON file and one table.

    python bench/gpu.py MODEL SHARDS [--minutes 10] [--json gpu.json]
    python bench/gpu.py --smoke           # small sizes on a CPU, made-up data

MODEL is a MiniLM folder, and SHARDS is what `qa-fast featurize squad` made for it. Each part runs in its own process
and within its own limit of time. A part that fails is recorded with the reason, and the others go on. Needed are jax,
keras, torch, transformers, tokenizers and what the package itself needs, but no TensorFlow.

For a machine without a network, one folder of about 53 MB holds everything else: the package, the benchmarks, MODEL
with weights in float16, and all of SHARDS. Wheels of what that machine lacks can be added (3 MB for these four):

    python bench/gpu.py MODEL SHARDS --pack FOLDER
    pip download --no-deps --python-version 3.12 --only-binary=:all: -d FOLDER/wheels keras optree namex orjson

    pip install --no-index --no-deps --target FOLDER/site FOLDER/wheels/*      # there
    PYTHONPATH=FOLDER:FOLDER/site python FOLDER/bench/gpu.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import reading
import training
from families import processor

from qa_fast import batches as batching
from qa_fast.batches import Batch, BatchCutter, Plan
from qa_fast.model.folder import folder_config
from qa_fast.shards import open_shards
from qa_fast.sources import resolve_model

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, Any]
Step = Callable[[Batch], tuple[Any, Any]]  # one training step: loss and gradient norm, which `float` waits for
DATA = "data.tar.xz"
WIDTHS = batching.WIDTHS_ACCELERATOR
RATE = 1e-5
SIZES = {"size", "rows", "widths", "seconds", "side"}  # options of parts that change no code


class Part(NamedTuple):
    """A measurement: its function, the function's options, and its limit in seconds with everything."""

    measure: Callable[..., Figures]
    options: dict[str, Any]
    limit: float


@dataclass(frozen=True)
class Epoch:
    """An epoch of the shards' train split in the trainer's own order."""

    cutter: BatchCutter
    plan: Plan

    def cut(self, at: int) -> Batch:
        return self.cutter.cut(self.plan.rows[at], int(self.plan.widths[at]))

    def batches(self) -> Iterator[Batch]:
        """Cut as in training on JAX: by a thread, some batches ahead."""
        return batching.prefetch(self.cut, 0, len(self.plan))

    def one_of_each_width(self) -> list[Batch]:
        return [self.cut(at) for at in np.unique(self.plan.widths, return_index=True)[1]]


def epoch_of(
    asked: argparse.Namespace, rows: int, multiple: int = batching.MULTIPLE, alike: int = 1, widths: int = WIDTHS
) -> Epoch:
    shards = open_shards(asked.shards)
    cutter = BatchCutter(shards.split("train").chunks, shards.manifest["model"]["pad_token_id"])
    lengths = cutter.lengths
    fitted = batching.bucket_widths(lengths, 1 if asked.smoke else widths, multiple)
    return Epoch(cutter, batching.training_plan(lengths, np.arange(len(lengths)), rows, 0, 0, fitted, alike=alike))


def shape_of(asked: argparse.Namespace, size: str) -> dict[str, Any]:
    raw = json.loads((Path(asked.model) / "config.json").read_text())
    if size == "base":
        raw |= {"num_hidden_layers": 2} if asked.smoke else training.BASE
    return raw


def fused() -> str:
    """cuDNN's kernel for attention, or on a CPU what computes the same."""
    import jax

    return "cudnn" if jax.default_backend() == "gpu" else "xla"


def half(asked: argparse.Namespace) -> str:
    return "float32" if asked.smoke else "bfloat16"


def product_rate(asked: argparse.Namespace) -> Figures:
    """GFLOP/s of a chain of products of large matrices in one call, and which device it is."""
    import jax
    from jax import numpy as jnp

    size, count = (256, 2) if asked.smoke else (8192, 16)
    numbers = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
    found: Figures = {}
    for precision in ("bfloat16", "float32"):
        x, factor = (jnp.asarray(part, precision) for part in (numbers[0], numbers[1] / size**0.5))
        chain = jax.jit(lambda x, factor: jax.lax.fori_loop(0, count, lambda _, y: (y @ factor).astype(y.dtype), x))
        seconds = min(common.times(lambda chain=chain, x=x, factor=factor: chain(x, factor).block_until_ready(), 6))
        found[precision] = 2e-9 * count * size**3 / seconds
    device = jax.devices()[0]
    return found | {"device": device.device_kind, "platform": device.client.platform_version, "jax": jax.__version__}


def parity(asked: argparse.Namespace) -> Figures:
    """How far logits and the losses of some steps are from those of the CPU in float32."""
    import jax

    from qa_fast.model.checkpoint import load_weights
    from qa_fast.model.encoder import EncoderModel
    from qa_fast.train.attention import WIDTH_MULTIPLE
    from qa_fast.train.backend_jax import JaxEngine
    from qa_fast.train.optimizer import step_scalars
    from qa_fast.train.steps import make_micros

    config = folder_config(Path(asked.model))
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    steps = 2 if asked.smoke else 20
    epoch = epoch_of(asked, 8, WIDTH_MULTIPLE)
    width = int(epoch.plan.widths[len(epoch.plan) // 2])
    fitting = [rows for rows, own in zip(epoch.plan.rows, epoch.plan.widths, strict=True) if own == width]
    batches = [epoch.cutter.cut(rows, width) for rows in fitting[:steps]]

    def model_of(precision: str, dropout: float | None = None) -> EncoderModel:
        model = EncoderModel(config if dropout is None else config.with_dropout(dropout), precision=precision)
        load_weights(model, Path(asked.model), seed=0)
        return model

    model = model_of("float32")

    def logits(where: Any, precision: str) -> np.ndarray:
        batch = batches[0]
        weights = [[variable.value for variable in model.trainable_variables], []]
        inputs = jax.device_put((*weights, batch.input_ids, batch.lengths, batch.token_type_ids), where)
        compute = jax.jit(lambda *given: model.stateless_call(*given, precision=precision)[0])
        there = np.arange(width) < batch.lengths[:, None]
        return np.where(there, np.stack([np.asarray(side, np.float32) for side in compute(*inputs)]), -np.inf)

    def losses(where: Any, precision: str, attention: str = "exact", dropout: float | None = None) -> np.ndarray:
        engine = JaxEngine(model_of(precision, dropout), attention, devices=[where])
        scalars = [step_scalars(RATE, 0.01, 1.0, number + 1) for number in range(len(batches))]
        pairs = enumerate(zip(batches, scalars, strict=True))
        return np.array([float(engine.step(make_micros([batch], 0, at, 1), own)[0]) for at, (batch, own) in pairs])

    right = logits(cpu, "float32")
    found: Figures = {"windows": len(right[0]), "largest logit": float(np.abs(right[np.isfinite(right)]).max())}
    finite = np.isfinite(right)

    def compare(name: str, value: np.ndarray) -> None:
        found[f"logits, {name}"] = float(np.abs(value[finite] - right[finite]).max())
        found[f"best spans alike, {name}"] = float((value.argmax(2) == right.argmax(2)).mean())

    compare("bfloat16 on the CPU", logits(cpu, "bfloat16"))
    for precision in ("float32", "bfloat16"):
        compare(precision, logits(device, precision))
    with jax.default_matmul_precision("highest"):
        compare("float32, products in float32", logits(device, "float32"))
    expected = losses(cpu, "float32")
    found |= {"steps": len(batches), "first loss": float(expected[0]), "last loss": float(expected[-1])}
    for precision in ("float32", "bfloat16"):
        found[f"losses, {precision}"] = float(np.abs(losses(device, precision) - expected).max())
    exact, quick = (losses(device, half(asked), attention, 0.0) for attention in ("exact", fused()))
    found[f"losses, {fused()} beside exact attention"] = float(np.abs(quick - exact).max())
    return found


def paced(step: Step, epoch: Epoch, seconds: float, began: float, at_once: int = 1) -> Figures:
    """Compile each width, then train for so many seconds or to the end of the epoch, reading losses as `train` does."""
    from qa_fast.train.losses import Losses

    found: Figures = {"start": time.perf_counter() - began, "compile": {}}
    for batch in epoch.one_of_each_width():
        first = time.perf_counter()
        for together in {1, at_once}:
            float([step(batch) for _ in range(together)][-1][0])
        found["compile"][batch.input_ids.shape[1]] = time.perf_counter() - first
    losses = Losses(Path(), RATE, skips_overflows=False, at_once=at_once)
    steps, lengths, first = 0, [], time.perf_counter()
    for batch in epoch.batches():
        losses.add(steps, *step(batch))
        steps += 1
        lengths.append(batch.lengths[batch.rows >= 0])
        if time.perf_counter() - first > seconds:
            break
    losses.read()
    taken = time.perf_counter() - first
    features = np.concatenate(lengths)
    rate = len(features) / taken
    whole = len(epoch.cutter.lengths) / rate
    compiling = sum(found["compile"].values())
    found |= {"steps": steps, "whole epoch": steps == len(epoch.plan), "milliseconds a step": 1000 * taken / steps}
    found |= {"features a second": rate, "epoch": whole, "compiling": compiling, "lengths": features}
    return found | {"epoch with compiling": whole + compiling}


def operations_a_second(config: Any, found: Figures) -> float:
    """GFLOP/s in the matrix products of a step, three times those of a forward pass, padding left out."""
    lengths = found.pop("lengths")
    return 3e-9 * reading.products_of(config, lengths) / len(lengths) * found["features a second"]


def our_steps(
    asked: argparse.Namespace,
    size: str = "minilm",
    rows: int = 32,
    fuse: bool = False,
    at_once: int = 1,
    widths: int = WIDTHS,
    seconds: float = 6,
) -> Figures:
    """Training steps through the trainer's engine."""
    import jax

    from qa_fast.model.encoder import EncoderModel
    from qa_fast.model.families import read_encoder_config
    from qa_fast.train.attention import WIDTH_MULTIPLE
    from qa_fast.train.learner import make_engine
    from qa_fast.train.optimizer import step_scalars
    from qa_fast.train.steps import make_micros

    began = time.perf_counter()
    config = read_encoder_config(shape_of(asked, size))
    model = EncoderModel(config, precision=half(asked))
    model.initialize(0)
    engine = make_engine(model, "on", fused() if fuse else "exact", at_once=at_once)
    numbers = iter(range(1_000_000))

    def step(batch: Batch) -> tuple[Any, Any]:
        number = next(numbers)
        return engine.step(make_micros([batch], 0, number, engine.devices), step_scalars(RATE, 0.01, 1.0, number + 1))

    epoch = epoch_of(asked, 4 if asked.smoke else rows, WIDTH_MULTIPLE if fuse else batching.MULTIPLE, at_once, widths)
    found = paced(step, epoch, 0.2 if asked.smoke else seconds, began, at_once)
    memory = jax.local_devices()[0].memory_stats() or {}
    return found | {"GFLOP/s": operations_a_second(config, found), "peak bytes": memory.get("peak_bytes_in_use")}


def torch_steps(
    asked: argparse.Namespace, size: str = "minilm", rows: int = 32, compiled: bool = False, seconds: float = 6
) -> Figures:
    """The same steps by torch and transformers: fused AdamW, clipping, autocast."""
    import torch
    from torch_trainer import arguments_of
    from transformers import AutoConfig, AutoModelForQuestionAnswering

    from qa_fast.model.families import read_encoder_config

    began = time.perf_counter()
    raw, device = shape_of(asked, size), "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForQuestionAnswering.from_config(AutoConfig.for_model(**raw)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    # One compilation for all widths, which is the fewest seconds; on a CPU the compiler itself is left out.
    run = torch.compile(model, dynamic=True, backend="eager" if asked.smoke else "inductor") if compiled else model

    def step(batch: Batch) -> tuple[Any, Any]:
        inputs = {name: part.to(device, non_blocking=True) for name, part in arguments_of(batch, True).items()}
        with torch.autocast(device, torch.bfloat16, enabled=half(asked) == "bfloat16"):
            loss = run(**inputs).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach(), norm

    found = paced(step, epoch_of(asked, 4 if asked.smoke else rows), 0.2 if asked.smoke else seconds, began)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    speed = operations_a_second(read_encoder_config(raw), found)
    return found | {"GFLOP/s": speed, "peak bytes": peak, "torch": torch.__version__}


class _Enough(Exception):
    """The time for a run is up."""


def whole_command(asked: argparse.Namespace, seconds: float = 40) -> Figures:
    """`train` as a user runs it, with what it chooses, for so many seconds or an epoch."""
    from qa_fast.train import StepReport, TrainConfig, train

    began, lines, reports = time.perf_counter(), [], []

    def progress(event: Any) -> None:
        (reports if isinstance(event, StepReport) else lines).append(event)
        if reports and time.perf_counter() - began > seconds:
            raise _Enough

    with tempfile.TemporaryDirectory() as out:
        small = {"max_steps": 6, "batch_size": 4, "batching": "fixed", "log_every": 2, "precision": "float32"}
        sizes: dict[str, Any] = small if asked.smoke else {"batch_size": 32}
        config = TrainConfig(model=asked.model, out=f"{out}/model", epochs=1, validation="", **sizes)
        try:
            train(asked.shards, config, progress)
            whole = True
        except _Enough:
            whole = False
    taken, last = time.perf_counter() - began, reports[-1]
    said = [str(line).replace(out, "OUT") for line in lines]
    found = {"lines": said, "steps": last.step, "whole epoch": whole, "features a second": last.features_per_second}
    return found | {"compiling": last.compile_seconds, "epoch with compiling": taken + last.seconds_left}


def reading_of(asked: argparse.Namespace, side: str) -> Figures:
    """Windows a second: of qa-fast from texts to answers, of torch from arrays to logits."""
    sizes = {"examples": 8, "rows": 4, "chunk": 8} if asked.smoke else {"examples": 2000, "rows": 128, "chunk": 1024}
    sample = argparse.Namespace(model=asked.model, shards=asked.shards, windows=0, device="cpu", **sizes)
    reading.WARM_EXAMPLES = sample.examples  # so that all shapes are compiled before the clock starts
    if side == "qa-fast":
        found = reading.run_ours(sample, "keras", half(asked))
    else:
        import torch

        sample.device = "cuda" if torch.cuda.is_available() else "cpu"
        found = reading.run_peer(sample, reading.torch_side, half(asked))
    return found | {"windows a second": len(reading.sample_of(sample).windows) / found["seconds"]}


# In the order of their worth, because the time may end. Of the short steps two widths are enough to compare.
PARTS = {
    "products of matrices": Part(product_rate, {}, 40),
    "parity": Part(parity, {}, 100),
    "MiniLM": Part(our_steps, {"seconds": 15}, 75),
    "BERT-base": Part(our_steps, {"size": "base", "seconds": 20}, 110),
    "MiniLM, qa-fast train": Part(whole_command, {}, 80),
    "MiniLM, torch": Part(torch_steps, {}, 40),
    "BERT-base, torch": Part(torch_steps, {"size": "base"}, 50),
    "MiniLM, cuDNN's attention": Part(our_steps, {"fuse": True}, 60),
    "BERT-base, cuDNN's attention": Part(our_steps, {"size": "base", "fuse": True}, 80),
    "reading, qa-fast": Part(reading_of, {"side": "qa-fast"}, 60),
    "reading, torch": Part(reading_of, {"side": "torch"}, 40),
    "16 rows, 1 step a call": Part(our_steps, {"rows": 16, "widths": 2}, 40),
    "16 rows, 4 steps a call": Part(our_steps, {"rows": 16, "widths": 2, "at_once": 4}, 50),
    "16 rows, 16 steps a call": Part(our_steps, {"rows": 16, "widths": 2, "at_once": 16}, 50),
    "MiniLM, compiled before": Part(our_steps, {"seconds": 2}, 40),
    "MiniLM, torch compiled": Part(torch_steps, {"compiled": True}, 80),
    "BERT-base, torch compiled": Part(torch_steps, {"size": "base", "compiled": True}, 90),
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: what --pack put beside this file")
    parser.add_argument("shards", nargs="?")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="the file to write")
    parser.add_argument("--minutes", type=float, default=10, help="no part runs longer than this after the start")
    parser.add_argument("--parts", help="some of them, by their beginnings, with ; between")
    parser.add_argument("--smoke", action="store_true", help="small sizes, in this process")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="put all that is needed into a new folder, and end")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def pack(asked: argparse.Namespace) -> None:
    """Copy package and benchmarks, and compress shards and model, whose weights are rounded to float16."""
    from safetensors.numpy import load_file, save_file

    asked.pack.mkdir(parents=True)
    unneeded = shutil.ignore_patterns("__pycache__", "results", "*.nbi", "*.nbc")
    for name in ("qa_fast", "bench"):
        shutil.copytree(ROOT / name, asked.pack / name, ignore=unneeded)
    model = resolve_model(asked.model)
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(asked.pack / DATA, "w:xz", preset=1) as archive:
        weights = load_file(model / "model.safetensors")
        rounded = {name: array.astype(np.float16) for name, array in weights.items() if array.dtype == np.float32}
        save_file(weights | rounded, f"{scratch}/model.safetensors", metadata={"format": "pt"})
        archive.add(f"{scratch}/model.safetensors", "model/model.safetensors")
        for path in sorted(model.glob("*.json")):
            archive.add(path, f"model/{path.name}")
        archive.add(asked.shards, "shards")
    size = sum(path.stat().st_size for path in asked.pack.rglob("*") if path.is_file())
    print(f"{asked.pack}: {size / 1e6:.1f} MB")


def made_up(folder: Path) -> tuple[str, str]:
    """A small random model and shards of authored examples, as the tests use them."""
    sys.path.insert(0, str(ROOT))
    from tests.small_runs import make_model_folder, make_shards

    model = make_model_folder(folder / "model", num_hidden_layers=1)
    return str(model), str(make_shards(folder / "shards", model))


def in_a_process(command: list[str], limit: float) -> Figures:
    """Return what a command prints last, as JSON, or why it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, limit))
    except subprocess.TimeoutExpired:
        return {"failed": f"it took longer than {limit:.0f} s"}
    if done.returncode:
        return {"failed": done.stderr.strip()[-2000:] or f"exit code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def here(asked: argparse.Namespace, part: Part) -> Figures:
    try:
        return part.measure(asked, **part.options)
    except Exception:
        return {"failed": traceback.format_exc()[-2000:]}


def measured(asked: argparse.Namespace) -> dict[str, Figures]:
    """Run all parts; the file is written after each, so that a run that is cut off leaves what it has."""
    deadline = time.monotonic() + 60 * asked.minutes
    wanted = [name for name in PARTS if not asked.parts or name.startswith(tuple(asked.parts.split(";")))]
    if asked.smoke:  # once what differs in sizes only
        kinds: dict[Any, str] = {}
        for name in reversed(wanted):
            part = PARTS[name]
            kinds[part.measure, part.options.get("side"), *sorted(part.options.keys() - SIZES)] = name
        wanted = [name for name in wanted if name in kinds.values()]
    results: dict[str, Figures] = {}
    for name in wanted:
        began, left = time.monotonic(), deadline - time.monotonic()
        if left < 5:
            found: Figures = {"failed": "no time was left"}
        elif asked.smoke:
            found = here(asked, PARTS[name])
        else:
            command = [sys.executable, __file__, asked.model, asked.shards, "--part", name]
            found = in_a_process(command, min(left, PARTS[name].limit))
        results[name] = found | {"seconds with everything": time.monotonic() - began}
        state = found["failed"].splitlines()[-1] if "failed" in found else "done"
        print(f"{name}: {state} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
        facts = {"processor": processor(), "smoke": asked.smoke, "parts": results}
        asked.json.write_text(json.dumps(facts, indent=2) + "\n")
    return results


def report(asked: argparse.Namespace, results: dict[str, Figures]) -> None:
    products = results.get("products of matrices", {})
    rate = products.get(half(asked))

    def cells(found: Figures) -> Iterator[str]:
        yield f"{found.get('features a second') or found['windows a second']:,.0f}"
        yield f"{found['GFLOP/s'] / rate:.0%}" if rate and "GFLOP/s" in found else ""
        for name in ("epoch", "compiling", "epoch with compiling"):
            yield f"{found[name]:.1f}" if name in found else ""
        yield f"{found['peak bytes'] / 1e9:.2f}" if found.get("peak bytes") else ""
        whole = {True: "whole epoch", False: f"extrapolated from {found.get('steps')} steps"}
        yield whole[found["whole epoch"]] if "whole epoch" in found else ""

    rows = []
    for name, found in results.items():
        if "failed" in found:
            rows.append((name, *[""] * 6, found["failed"].splitlines()[-1][:80]))
        elif "features a second" in found or "windows a second" in found:
            rows.append((name, *cells(found)))
    rates = ", ".join(
        f"{products[name]:,.0f} GFLOP/s in {name}" for name in ("bfloat16", "float32") if name in products
    )
    title = f"{products.get('device', 'unknown device')}; {processor()}; products of matrices: {rates}"
    header = ("", "features or windows a second", "share of the rate", "epoch, s", "compiling, s")
    common.print_table(title, (*header, "epoch with compiling, s", "peak, GB", ""), rows)
    for name, value in results.get("parity", {}).items():
        print(f"- {name}: {value:.3g}" if isinstance(value, float) else f"- {name}: {value}")


def main() -> None:
    os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported, within the parts
    asked = options()
    if asked.shards is None and (asked.pack or not (asked.smoke or (ROOT / DATA).exists())):
        raise SystemExit("name MODEL and SHARDS, or measure made-up data with --smoke")
    if asked.pack:
        pack(asked)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if asked.model is None and (ROOT / DATA).exists():
            with tarfile.open(ROOT / DATA) as archive:
                archive.extractall(scratch, filter="data")
            asked.model, asked.shards = f"{scratch}/model", f"{scratch}/shards"
        elif asked.model is None and asked.smoke:
            asked.model, asked.shards = made_up(Path(scratch))
        asked.model = str(resolve_model(asked.model))
        if asked.part:
            part = PARTS[asked.part]
            print(json.dumps(part.measure(asked, **part.options)))
            return
        # Compiled anew by the first part that needs it, and kept for the later ones.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{scratch}/compiled")
        if asked.smoke:
            os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        results = measured(asked)
        report(asked, results)
    if asked.smoke and any("failed" in found for found in results.values()):
        raise SystemExit("a part failed")


if __name__ == "__main__":
    main()
