"""Features in, logits out: engines that read with a model, one interface for all; see `open.py`."""

from qa_fast.infer.engine import Engine, Prediction
from qa_fast.infer.open import open_engine

__all__ = ["Engine", "Prediction", "open_engine"]
