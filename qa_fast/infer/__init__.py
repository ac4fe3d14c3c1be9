"""Engines, which compute logits of features with a model, and the decoding of logits to spans; see `open.py`."""

from qa_fast.infer.engine import Engine, Prediction
from qa_fast.infer.open import measure_engines, open_engine

__all__ = ["Engine", "Prediction", "measure_engines", "open_engine"]
