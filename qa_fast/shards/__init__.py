"""Shards: Arrow files that describe themselves, appear as a whole, and can be opened by `datasets.load_from_disk`.

    OUT/qa_fast.json                      the index, written last: without it nothing in the folder is trusted
    OUT/dataset_dict.json                 {"splits": [...]}
    OUT/rejected.jsonl                    only if examples were rejected
    OUT/repaired.jsonl                    only if answers were repaired
    OUT/<split>/data-FFFFFFFF-00000.arrow features (schema.FEATURE_COLUMNS), one file for each block of the source
    OUT/<split>/state.json, dataset_info.json
    OUT/<split>/examples-…, contexts-…    what evaluation needs, in every split except train
    OUT/.qa_fast-partial/                 only while a build runs, or after it was interrupted

FFFFFFFF identifies the build. Different builds never write the same names, so old files stay until the new ones are
complete. Files are Arrow IPC streams of few, large record batches, which are memory-mapped without a copy.
"""

from qa_fast.shards.format import CHECKSUM, FORMAT_VERSION, INDEX, REJECTED, REPAIRED, TRAIN, damaged_file
from qa_fast.shards.read import Shards, open_shards
from qa_fast.shards.split import Split
from qa_fast.shards.write import BlockWriter, feature_batch, write_for_datasets

__all__ = [
    "CHECKSUM",
    "FORMAT_VERSION",
    "INDEX",
    "REJECTED",
    "REPAIRED",
    "TRAIN",
    "BlockWriter",
    "Shards",
    "Split",
    "damaged_file",
    "feature_batch",
    "open_shards",
    "write_for_datasets",
]
