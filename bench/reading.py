"""Measures windows of SQuAD's dev split per second: qa-fast's engines beside ONNX Runtime, OpenVINO and torch.

    python bench/reading.py MODEL SHARDS [--examples 2000] [--rounds 3] [--sides qa-fast,openvino:float32]

SHARDS is the folder that `qa-fast featurize squad` made for MODEL. The time of qa-fast's sides starts from the
examples' texts and includes tokenizing, cutting windows and decoding. The other sides get the same windows as arrays,
cut before the clock starts and sorted by length into batches that are padded to their longest; their logits are decoded
after the clock stops, for exact match and F1. ONNX Runtime and OpenVINO read files that `qa-fast export` writes. Each
side runs in its own process, one at a time and in turns; the table shows medians. The machine's rate of matrix products
is measured in the same turns, and each side's share of that rate follows from the cost of a window's products.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import common
import numpy as np
from families import processor

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.settings import max_positions_of
from qa_fast.batches import Batch, BatchCutter
from qa_fast.buffers import one_chunk, ragged_from
from qa_fast.encode import load_encoder
from qa_fast.errors import UserError
from qa_fast.infer.decode import BestSpans, SpanDecoder, windows_of
from qa_fast.model.config import EncoderConfig
from qa_fast.model.folder import folder_config
from qa_fast.schema import DEFAULT_MAX_ANSWER_LENGTH
from qa_fast.scoring.evaluation import best_texts
from qa_fast.scoring.metrics import squad_v1
from qa_fast.shards import Split, open_shards
from qa_fast.sources import resolve_model

Compute = Callable[[Batch], tuple[np.ndarray, np.ndarray]]

OURS = [
    "auto:auto",
    "keras:float32",
    "onnx:float32",
    "onnx:int8",
    "openvino:float32",
    "openvino:bfloat16",
    "openvino:int8",
]
SIDES = [f"qa-fast:{engine}" for engine in OURS] + [
    "onnxruntime:float32",
    "onnxruntime:int8",
    "onnxruntime:int8-channels",
    "openvino:float32",
    "openvino:bfloat16",
    "torch:float32",
    "torch:bfloat16",
]
NAMES = {
    "onnxruntime:int8": "ONNX Runtime, int8 (dynamic)",
    "onnxruntime:int8-channels": "ONNX Runtime, int8 (dynamic, a scale a channel, 7 bits)",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "torch",
}
# The quantizer's options by the name of the side; where products of 8 bits saturate, 7 are advised.
QUANTIZED = {"int8": {}, "int8-channels": {"per_channel": True, "reduce_range": True}}
# Read before the clock starts, so that nothing is compiled or allocated for the first time behind it.
WARM_EXAMPLES = 64
RATE_SIZES = (1024, 1536, 2048)
PACKAGES = ("onnxruntime", "openvino", "torch", "transformers")


class Refused(Exception):
    """A side that this machine or installation cannot be; the reason is printed in place of figures."""


@dataclass(frozen=True)
class Sample:
    """Some examples of a split.

    Attributes:
        split: All of it; rows count over it.
        examples: int64, rows of the chosen examples.
        windows: int64, rows of all their features.
        pairs: Question and context of each chosen example.
        golds: Answers of each.
    """

    split: Split
    examples: np.ndarray
    windows: np.ndarray
    pairs: list[tuple[str, str]]
    golds: list[list[str]]


def sample_of(asked: argparse.Namespace, seed: int = 0, examples: int | None = None) -> Sample:
    """Examples spread evenly over SQuAD's dev split: one of each equal stretch."""
    split = open_shards(asked.shards).split("validation")
    assert split.examples is not None
    assert split.contexts is not None
    counts = split.examples["feature_count"].to_numpy()
    wanted = min(examples or asked.examples, asked.windows or len(counts), len(counts))
    edges = np.linspace(0, len(counts), wanted + 1).astype(np.int64)
    chosen = edges[:-1] + (np.random.default_rng(seed).random(wanted) * np.diff(edges)).astype(np.int64)
    if asked.windows:
        chosen = chosen[np.cumsum(counts[chosen]) <= asked.windows]
    contexts = split.contexts["context"].to_pylist()
    questions = split.examples["question"].take(chosen).to_pylist()
    documents = split.examples["context_index"].to_numpy()[chosen]
    return Sample(
        split=split,
        examples=chosen,
        windows=np.flatnonzero(np.isin(np.repeat(np.arange(len(counts)), counts), chosen)),
        pairs=[(question, contexts[at]) for question, at in zip(questions, documents, strict=True)],
        golds=one_chunk(split.examples["answers"]).field("text").take(chosen).to_pylist(),
    )


def scores(predictions: list[str], sample: Sample) -> dict[str, float]:
    found = squad_v1(predictions, sample.golds)
    return {"exact_match": found["exact_match"], "f1": found["f1"]}


def run_ours(asked: argparse.Namespace, engine_name: str, precision: str) -> dict[str, Any]:
    """Texts in, texts out."""
    from qa_fast.infer import open_engine

    manifest = open_shards(asked.shards).manifest["config"]
    folder = resolve_model(asked.model)
    engine = open_engine(folder, engine=engine_name, precision=precision)
    engine.warm_up()
    answerer = Answerer(engine.predict, load_encoder(folder), max_positions_of(folder))
    # The shards' windows and the peers' decoding: whole questions, answers of any 30 tokens, not widened to words.
    options = AnswerOptions(
        doc_stride=manifest["doc_stride"],
        max_seq_len=manifest["max_length"],
        max_question_len=manifest["max_length"],
        max_answer_len=DEFAULT_MAX_ANSWER_LENGTH,
        align_to_words=False,
    )

    def answered(pairs: list[tuple[str, str]]) -> list[str]:
        texts = []
        for at in range(0, len(pairs), asked.chunk):
            for found in answerer.answer_pairs(pairs[at : at + asked.chunk], options):
                assert not isinstance(found, str), found
                texts.append(found[0]["answer"])
        return texts

    answered(sample_of(asked, seed=1, examples=WARM_EXAMPLES).pairs)
    sample = sample_of(asked)
    begun = time.perf_counter()
    texts = answered(sample.pairs)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "engine": engine.name, "precision": engine.precision, **scores(texts, sample)}


def onnxruntime_side(asked: argparse.Namespace, precision: str) -> Compute:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    path = Path(asked.graphs) / f"{precision}.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def compute(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        inputs = inputs_of(batch)
        start, end = session.run(["start_logits", "end_logits"], {name: inputs[name] for name in names})
        return start, end

    return compute


def openvino_side(asked: argparse.Namespace, precision: str) -> Compute:
    import openvino

    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bfloat16" and "BF16" not in able:
        raise Refused(f"the device has {', '.join(able)}")
    hint = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision]}
    compiled = core.compile_model(Path(asked.graphs) / "float32.onnx", "CPU", hint)
    names = [given.any_name for given in compiled.inputs]

    def compute(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        inputs = inputs_of(batch)
        found = compiled({name: inputs[name] for name in names})
        return np.array(found["start_logits"]), np.array(found["end_logits"])

    return compute


def torch_side(asked: argparse.Namespace, precision: str) -> Compute:
    import torch
    from transformers import AutoModelForQuestionAnswering

    short = precision == "bfloat16"
    if short and asked.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise Refused("torch has no fast bfloat16 products for this processor")
    folder = resolve_model(asked.model)
    model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).to(asked.device).eval()
    typed = folder_config(folder).takes_types

    def compute(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        tensors = {name: torch.from_numpy(value).to(asked.device) for name, value in inputs_of(batch).items()}
        if not typed:
            del tensors["token_type_ids"]
        with torch.inference_mode(), torch.autocast(asked.device, torch.bfloat16, enabled=short):
            found = model(**tensors)
        return found.start_logits.float().cpu().numpy(), found.end_logits.float().cpu().numpy()

    return compute


def inputs_of(batch: Batch) -> dict[str, np.ndarray]:
    there = np.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
    arrays = {"input_ids": batch.input_ids, "attention_mask": there, "token_type_ids": batch.token_type_ids}
    return {name: value.astype(np.int64) for name, value in arrays.items()}


def sorted_batches(asked: argparse.Namespace, sample: Sample) -> list[Batch]:
    """Batches of windows sorted by length, each padded to its longest."""
    cutter = BatchCutter(sample.split.chunks, folder_config(resolve_model(asked.model)).pad_id)
    rows = sample.windows[np.argsort(cutter.lengths[sample.windows], kind="stable")]
    cut = [rows[at : at + asked.rows] for at in range(0, len(rows), asked.rows)]
    return [cutter.cut(some, int(cutter.lengths[some].max())) for some in cut]


def run_peer(asked: argparse.Namespace, make: Callable[..., Compute], precision: str) -> dict[str, Any]:
    """Arrays in, logits out."""
    compute = make(asked, precision)
    for batch in sorted_batches(asked, sample_of(asked, seed=1, examples=WARM_EXAMPLES)):
        compute(batch)
    sample = sample_of(asked)
    batches = sorted_batches(asked, sample)
    begun = time.perf_counter()
    logits = [compute(batch) for batch in batches]
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "precision": precision.split("-")[0],
        **scores(decoded(sample, batches, logits), sample),
    }


def decoded(sample: Sample, batches: list[Batch], logits: list[tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """The answers that logits give."""
    split = sample.split
    assert split.examples is not None
    assert split.contexts is not None
    documents = split.examples["context_index"].to_numpy()
    starts, ends = (ragged_from(one_chunk(split.contexts[f"token_char_{side}"])) for side in ("start", "end"))
    windows = windows_of(split.chunks, starts.offsets[:-1][documents])
    decoder = SpanDecoder(windows, starts.values, ends.values, len(documents))
    for batch, (start, end) in zip(batches, logits, strict=True):
        decoder.add(batch.rows, start, end)
    spans = BestSpans(**{name: column[sample.examples] for name, column in vars(decoder.result()).items()})
    return best_texts(spans, split.contexts["context"].to_pylist(), documents[sample.examples], None)


def run_rates() -> dict[str, float]:
    """GFLOP/s of this machine's products of square matrices, the best of some sizes and libraries."""
    import onnxruntime
    import torch
    from onnx import TensorProto, helper, numpy_helper

    rates = {"float32": 0.0, "int8": 0.0}

    def measured(name: str, size: int, product: Callable[[], object]) -> None:
        product()
        rates[name] = max(rates.get(name, 0.0), 2e-9 * size**3 / min(common.times(product, 8)))

    generator = np.random.default_rng(0)
    for size in RATE_SIZES:
        floats = generator.standard_normal((size, size), dtype=np.float32)
        tensor = torch.from_numpy(floats)
        measured("float32", size, lambda floats=floats: floats @ floats)
        measured("float32", size, lambda tensor=tensor: tensor @ tensor)
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            halves = tensor.bfloat16()
            measured("bfloat16", size, lambda halves=halves: halves @ halves)
        # Weights are constants in a graph, so that the library may lay them out beforehand, as it does for a model.
        weights = numpy_helper.from_array(generator.integers(-127, 128, (size, size)).astype(np.int8), "w")
        given = helper.make_tensor_value_info("x", TensorProto.UINT8, [size, size])
        made = helper.make_tensor_value_info("y", TensorProto.INT32, [size, size])
        node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
        graph = helper.make_graph([node], "product", [given], [made], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        inputs = {"x": generator.integers(0, 256, (size, size)).astype(np.uint8)}
        measured("int8", size, lambda session=session, inputs=inputs: session.run(None, inputs))
    return rates


def run_quantize(asked: argparse.Namespace) -> dict[str, Any]:
    from onnxruntime.quantization import quantize_dynamic

    folder = Path(asked.graphs)
    for name, options in QUANTIZED.items():
        quantize_dynamic(folder / "float32.onnx", folder / f"{name}.onnx", **options)
    return {}


def run_side(asked: argparse.Namespace) -> dict[str, Any]:
    kind, _, rest = asked.side.partition(":")
    try:
        if kind == "rates":
            return run_rates()
        if kind == "quantize":
            return run_quantize(asked)
        if kind == "qa-fast":
            return run_ours(asked, *rest.split(":"))
        make = {"onnxruntime": onnxruntime_side, "openvino": openvino_side, "torch": torch_side}[kind]
        return run_peer(asked, make, rest)
    except (Refused, UserError, ImportError) as error:
        return {"refused": str(error)}


def in_a_process(asked: argparse.Namespace, side: str, graphs: str) -> dict[str, Any]:
    """Return the result of one side, which runs in its own process."""
    command = [sys.executable, __file__, asked.model, asked.shards, "--side", side, "--graphs", graphs]
    for name in ("examples", "windows", "rows", "chunk", "device"):
        command += [f"--{name}", str(getattr(asked, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def products_of(config: EncoderConfig, lengths: np.ndarray) -> float:
    """Floating-point operations of the encoder's products over windows, padding left out.

    A token meets in each block four H x H matrices (queries, keys, values, output) and two H x I ones (three where the
    feed-forward part is gated), 2 operations a weight: 2 (4 H^2 + 2 H I). Its query meets the keys of all L tokens of
    its window, and its probabilities their values: 2 L H each, 4 L H together. Embeddings and head are left out.
    """
    hidden, inner = config.hidden_size, config.feed_forward.width
    weights = 4 * hidden**2 + (3 if config.feed_forward.gated else 2) * hidden * inner
    tokens = lengths.astype(np.float64)
    return float(len(config.order) * (2 * weights * tokens + 4 * hidden * tokens**2).sum())


def name_of(side: str, result: dict[str, Any]) -> str:
    kind, _, rest = side.partition(":")
    if kind == "qa-fast":
        chosen = f"{result['engine']}, {result['precision']}"
        return f"qa-fast auto ({chosen})" if rest == "auto:auto" else f"qa-fast {chosen}"
    return NAMES.get(side, f"{NAMES[kind]}, {rest}")


def report(asked: argparse.Namespace, results: dict[str, list[dict[str, Any]]], rates: list[dict[str, float]]) -> None:
    sample = sample_of(asked)
    lengths = np.concatenate([chunk.input_ids.lengths for chunk in sample.split.chunks])[sample.windows]
    operations = products_of(folder_config(resolve_model(asked.model)), lengths)
    rate = {name: statistics.median(turn[name] for turn in rates) for name in rates[0]}
    seconds = {side: statistics.median(one["seconds"] for one in turns) for side, turns in results.items()}
    peers = [side for side in seconds if not side.startswith("qa-fast:")]
    fastest = min(peers, key=lambda side: seconds[side]) if peers else None
    rows = []
    for side in sorted(seconds, key=lambda side: (side in peers, seconds[side])):
        first, spread = results[side][0], [len(lengths) / one["seconds"] for one in results[side]]
        speed = operations / seconds[side] / 1e9
        of = rate.get(first["precision"])
        rows.append(
            (
                name_of(side, first),
                f"{len(lengths) / seconds[side]:.1f} ({min(spread):.1f} to {max(spread):.1f})",
                f"{seconds[fastest] / seconds[side]:.2f}" if fastest else "",
                f"{speed:.0f}",
                f"{speed / of:.0%}" if of else "",
                f"{first['exact_match']:.2f}",
                f"{first['f1']:.2f}",
            )
        )
    multiplied = ", ".join(f"{value:,.0f} GFLOP/s in {name}" for name, value in rate.items())
    title = (
        f"{processor()}; {installed()}\n"
        f"{len(lengths):,} windows of {len(sample.examples):,} examples, {lengths.min()} to {lengths.max()} tokens, "
        f"{lengths.mean():.0f} on average, {operations / len(lengths) / 1e9:.2f} GFLOP each; "
        f"peers in batches of {asked.rows}\n"
        f"products of matrices: {multiplied}; median of {len(rates)} turns (least to most)"
    )
    header = ("", "windows a second", "times the fastest peer", "GFLOP/s", "share of the rate", "exact match", "F1")
    common.print_table(title, header, rows)


def installed() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder with a trained head")
    parser.add_argument("shards", help="what `qa-fast featurize squad` made for it")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--windows", type=int, default=0, help="so many at most; 0 is all of the examples")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16, help="of a peer's batch")
    parser.add_argument("--device", default="cpu", help="of torch")
    parser.add_argument("--chunk", type=int, default=256, help="examples that qa-fast gets at a time")
    parser.add_argument("--sides", default=",".join(SIDES), help="some of them, by their beginnings")
    parser.add_argument("--json", type=Path, help="write every turn's figures there")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--graphs", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = options()
    if asked.side:
        print(json.dumps(run_side(asked)))
        return
    sides = [side for side in SIDES if any(f"{side}:".startswith(f"{wanted}:") for wanted in asked.sides.split(","))]
    results: dict[str, list[dict[str, Any]]] = {}
    rates, refused = [], {}
    with tempfile.TemporaryDirectory() as graphs:
        if any(side.startswith(("onnxruntime:", "openvino:")) for side in sides):
            command = [sys.executable, "-m", "qa_fast.cli", "export", asked.model, "--format", "onnx"]
            subprocess.run([*command, "--out", f"{graphs}/float32.onnx"], check=True, stdout=sys.stderr)
        if any(side.startswith("onnxruntime:int8") for side in sides):
            in_a_process(asked, "quantize", graphs)
        for turn in range(asked.rounds):
            rates.append(in_a_process(asked, "rates", graphs))
            for side in sides:
                if side in refused:
                    continue
                result = in_a_process(asked, side, graphs)
                if "refused" in result:
                    refused[side] = result["refused"]
                    continue
                results.setdefault(side, []).append(result)
                print(f"turn {turn + 1}, {side}: {result['seconds']:.1f} s, F1 {result['f1']:.2f}", file=sys.stderr)
    report(asked, results, rates)
    for side, reason in refused.items():
        print(f"\n{side}: not measured, {reason}")
    if asked.json:
        asked.json.write_text(json.dumps({"sides": results, "rates": rates, "refused": refused}, indent=2) + "\n")


if __name__ == "__main__":
    main()
