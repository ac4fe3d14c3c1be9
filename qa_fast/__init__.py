"""qa-fast: extractive question answering, from raw text to a served model."""

from __future__ import annotations

from qa_fast.signals import hold_in_a_command

hold_in_a_command()  # before all other imports, which take a second in a command

from typing import TYPE_CHECKING, Any

from qa_fast.backend import settle_onnx_runtime, settle_pools, settle_tensorflow
from qa_fast.errors import UserError
from qa_fast.keras_names import settle_keras
from qa_fast.version import __version__

if TYPE_CHECKING:
    from qa_fast.answer.answerer import Answerer
    from qa_fast.builder.featurizer import Featurizer
    from qa_fast.builder.job import BuildResult, build_shards, featurize
    from qa_fast.builder.options import BuildOptions
    from qa_fast.dataset import Dataset, Examples, load
    from qa_fast.feeds import Batches
    from qa_fast.keras_model.span_model import SpanModel
    from qa_fast.keras_model.squad_metrics import SquadMetrics
    from qa_fast.schema import FeatureConfig
    from qa_fast.scoring.evaluation import evaluate
    from qa_fast.scoring.options import EvaluateConfig
    from qa_fast.scoring.result import EvaluationResult
    from qa_fast.shards import Shards, Split, open_shards

# In the order of the stages, which the reference page keeps.
__all__ = [  # noqa: RUF022
    "load",
    "Dataset",
    "Examples",
    "featurize",
    "open_shards",
    "Shards",
    "Split",
    "Batches",
    "SpanModel",
    "SquadMetrics",
    "evaluate",
    "EvaluateConfig",
    "EvaluationResult",
    "Answerer",
    "build_shards",
    "BuildResult",
    "BuildOptions",
    "FeatureConfig",
    "Featurizer",
    "UserError",
    "__version__",
]

settle_tensorflow()
settle_onnx_runtime()
settle_pools()
settle_keras()

# Name -> module, which is imported when the name is first accessed, so that importing the package stays fast.
_LAZY = {
    "Answerer": "qa_fast.answer.answerer",
    "Batches": "qa_fast.feeds",
    "BuildOptions": "qa_fast.builder.options",
    "BuildResult": "qa_fast.builder.job",
    "Dataset": "qa_fast.dataset",
    "EvaluateConfig": "qa_fast.scoring.options",
    "EvaluationResult": "qa_fast.scoring.result",
    "Examples": "qa_fast.dataset",
    "FeatureConfig": "qa_fast.schema",
    "Featurizer": "qa_fast.builder.featurizer",
    "Shards": "qa_fast.shards",
    "SpanModel": "qa_fast.keras_model.span_model",
    "Split": "qa_fast.shards",
    "SquadMetrics": "qa_fast.keras_model.squad_metrics",
    "build_shards": "qa_fast.builder.job",
    "evaluate": "qa_fast.scoring.evaluation",
    "featurize": "qa_fast.builder.job",
    "load": "qa_fast.dataset",
    "open_shards": "qa_fast.shards",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'qa_fast' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
