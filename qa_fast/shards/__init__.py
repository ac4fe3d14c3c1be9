"""Shards: Arrow files that `datasets.load_from_disk` opens, that describe themselves, and that appear whole.

    OUT/qa_fast.json                      the index, written last: without it nothing here is trusted
    OUT/dataset_dict.json                 {"splits": [...]}
    OUT/rejected.jsonl                    only where examples were rejected
    OUT/<split>/data-00000-of-000NN.arrow features (schema.FEATURE_COLUMNS)
    OUT/<split>/state.json, dataset_info.json
    OUT/<split>/examples.arrow, contexts.arrow  for every split but train: what evaluation needs, once each

Files are Arrow IPC streams of few, large record batches; read through a memory map without a copy.
"""

from qa_fast.shards.format import CHECKSUM, FORMAT_VERSION, INDEX, REJECTED, TRAIN, damaged_file, write_json
from qa_fast.shards.read import Shards, Split, open_shards
from qa_fast.shards.write import SplitWriter, feature_batch

__all__ = [
    "CHECKSUM",
    "FORMAT_VERSION",
    "INDEX",
    "REJECTED",
    "TRAIN",
    "Shards",
    "Split",
    "SplitWriter",
    "damaged_file",
    "feature_batch",
    "open_shards",
    "write_json",
]
