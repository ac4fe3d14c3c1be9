"""qa-fast: extractive question answering, from raw text to a served model."""

from qa_fast.version import __version__

__all__ = ["__version__"]
