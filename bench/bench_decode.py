"""Times logits to predictions on all of SQuAD v1.1's validation split, beside the well-known Python post-processing.

Both get the same float32 logits, all at once: noise, a peak at the labelled span, and a few false peaks. The reference
is `postprocess_reference.postprocess` over `datasets.Dataset` rows with offsets as lists, as in tutorials; qa-fast's
side is `SpanDecoder`, up to the predicted texts. It is also timed in batches, as `evaluate` calls it while the model
computes.
"""

from __future__ import annotations

import statistics

import common
import numpy as np
import pytest
from datasets import Dataset
from postprocess_reference import postprocess

from qa_fast.buffers import one_chunk, ragged_from
from qa_fast.builder.job import build_shards
from qa_fast.infer.decode import BestSpans, SpanDecoder, windows_of
from qa_fast.scoring.evaluation import best_texts
from qa_fast.shards import open_shards

FLOOR = 34.0
BATCH = 256
FIGURES: dict[str, list[float]] = {}


class Batch:
    """A batch of a predictor: rows and their padded logits."""

    def __init__(self, rows: np.ndarray, start_logits: np.ndarray, end_logits: np.ndarray) -> None:
        self.rows, self.start_logits, self.end_logits = rows, start_logits, end_logits


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("dev") / "shards"
    build_shards("squad", out, splits=["validation"])
    split = open_shards(out).split("validation")
    noise = np.random.default_rng(0)
    lengths = split.lengths
    starts, ends = (noise.normal(-4, 2, (len(split), 384)).astype(np.float32) for _ in range(2))
    row = np.arange(len(split))
    for logits, labels in (
        (starts, np.concatenate([chunk.start_positions for chunk in split.chunks])),
        (ends, np.concatenate([chunk.end_positions for chunk in split.chunks])),
    ):
        logits[row, labels] += 9
        for _ in range(4):
            logits[row, noise.integers(0, lengths)] += noise.normal(6, 2, len(row)).astype(np.float32)
    return split, starts, ends


def reference_rows(split) -> tuple[Dataset, Dataset]:
    """Examples and features as the tutorials hold them: offsets of context tokens, None elsewhere."""
    contexts = split.contexts["context"].to_pylist()
    documents = [
        list(zip(start, end, strict=True))
        for start, end in zip(
            split.contexts["token_char_start"].to_pylist(), split.contexts["token_char_end"].to_pylist(), strict=True
        )
    ]
    document_of = split.examples["context_index"].to_pylist()
    examples = {"id": split.examples["id"].to_pylist(), "context": [contexts[d] for d in document_of]}
    offsets = []
    for chunk in split.chunks:
        for row in range(len(chunk)):
            document = documents[document_of[chunk.example_index[row]]]
            begin, size = chunk.document_token_start[row], chunk.context_end[row] - chunk.context_start[row]
            lead = chunk.context_start[row]
            mapping = [None] * lead + [list(pair) for pair in document[begin : begin + size]]
            offsets.append(mapping + [None] * (384 - len(mapping)))
    features = {"example_id": split.ids.to_pylist(), "offset_mapping": offsets}
    return Dataset.from_dict(examples), Dataset.from_dict(features)


def batches(split, starts: np.ndarray, ends: np.ndarray, size: int = BATCH):
    """Logits in batches of features, cut to the longest of each."""
    lengths = split.lengths
    for begin in range(0, len(split), size):
        rows = np.arange(begin, min(begin + size, len(split)), dtype=np.int32)
        width = int(lengths[rows].max())
        yield Batch(rows, starts[rows, :width], ends[rows, :width])


def test_reference(dev) -> None:
    split, starts, ends = dev
    examples, features = reference_rows(split)
    FIGURES["reference"] = common.times(
        lambda: postprocess(examples, features, starts, ends), max(1, common.REFERENCE_ROUNDS)
    )


def decode(split, prepared: list[Batch]) -> tuple[BestSpans, list[str]]:
    """Decode as `evaluate_split` does between the model and the metrics."""
    contexts = one_chunk(split.contexts["context"]).to_pylist()
    starts, ends = (ragged_from(one_chunk(split.contexts[f"token_char_{side}"])) for side in ("start", "end"))
    context_index = one_chunk(split.examples["context_index"]).to_numpy()
    windows = windows_of(split.chunks, starts.offsets[:-1][context_index])
    decoder = SpanDecoder(windows, starts.values, ends.values, len(context_index))
    for batch in prepared:
        decoder.add(batch.rows, batch.start_logits, batch.end_logits)
    spans = decoder.result()
    return spans, best_texts(spans, contexts, context_index, None)


def test_ours(dev, benchmark) -> None:
    split, starts, ends = dev
    prepared = list(batches(split, starts, ends))
    decode(split, prepared)
    FIGURES[f"qa-fast, in batches of {BATCH}"] = common.times(lambda: decode(split, prepared), max(common.ROUNDS, 5))
    prepared = list(batches(split, starts, ends, len(split)))
    results = benchmark.pedantic(
        lambda: decode(split, prepared), rounds=max(common.ROUNDS, 5), iterations=1, warmup_rounds=1
    )
    FIGURES["qa-fast"] = benchmark.stats.stats.data
    examples, features = reference_rows(split)
    theirs, _, _ = postprocess(examples, features, starts, ends)
    ours = dict(zip(split.examples["id"].to_pylist(), results[1], strict=True))
    different = sum(theirs[example_id] != text for example_id, text in ours.items())
    print(f"\n{different} of {len(ours)} predictions differ (the reference looks at 20 starts and ends only)")
    assert different <= 0.01 * len(ours)


def test_ratio() -> None:
    """Print the table and hold the floor."""
    reference = statistics.median(FIGURES["reference"])
    rows = [
        (name, common.spread(seconds), f"{reference / statistics.median(seconds):.1f}")
        for name, seconds in FIGURES.items()
    ]
    common.print_table(f"10,784 windows; {common.machine()}", ("way", "seconds", "times the reference"), rows)
    common.save("decode", FIGURES)
    assert min(FIGURES["reference"]) / min(FIGURES["qa-fast"]) >= FLOOR  # two rounds of three may meet other work
