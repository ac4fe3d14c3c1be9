"""Shards: Arrow files that `datasets.load_from_disk` opens, that describe themselves, and that appear whole.

    OUT/qa_fast.json                      the index, written last: without it nothing here is trusted
    OUT/dataset_dict.json                 {"splits": [...]}
    OUT/rejected.jsonl                    only where examples were rejected
    OUT/<split>/data-FFFFFFFF-00000.arrow features (schema.FEATURE_COLUMNS), a file for each block of the source
    OUT/<split>/state.json, dataset_info.json
    OUT/<split>/examples-…, contexts-…    for every split but train: what evaluation needs, once each
    OUT/.qa_fast-partial/                 only while a build is under way, or was interrupted

FFFFFFFF tells the build: one that differs never writes the same names, so the old files stay until the new are whole.

Files are Arrow IPC streams of few, large record batches; read through a memory map without a copy.
"""

from qa_fast.shards.format import CHECKSUM, FORMAT_VERSION, INDEX, REJECTED, TRAIN, damaged_file
from qa_fast.shards.read import Shards, open_shards
from qa_fast.shards.split import Split
from qa_fast.shards.write import BlockWriter, feature_batch, write_for_datasets

__all__ = [
    "CHECKSUM",
    "FORMAT_VERSION",
    "INDEX",
    "REJECTED",
    "TRAIN",
    "BlockWriter",
    "Shards",
    "Split",
    "damaged_file",
    "feature_batch",
    "open_shards",
    "write_for_datasets",
]
