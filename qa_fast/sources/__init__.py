"""Finds and reads examples and models: from local files, the Hub, or the package index."""

from qa_fast.sources.resolve import MINILM_ID, resolve_model, resolve_source
from qa_fast.sources.source import Source

__all__ = ["MINILM_ID", "Source", "resolve_model", "resolve_source"]
