"""Takes a source of examples; gives a folder of shards, made block by block by threads or by Ray."""

from qa_fast.builder.job import BuildResult, build_shards, featurize

__all__ = ["BuildResult", "build_shards", "featurize"]
