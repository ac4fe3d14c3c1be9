"""Arguments that other readers have and qa-fast has not: each is accepted, or refused with what to do instead.

They are those of the pipeline that transformers 4 had and of the reader that Haystack 2 had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qa_fast.errors import UserError, shown

# Arguments that no answer depends on: windows are grouped by length here.
IGNORED = ("batch_size", "num_workers", "padding", "framework", "use_fast")
_HF_TOKEN = ("must not be an argument", "set the environment variable HF_TOKEN")
_OWN_FILES = ("must be the model's own", "put its files into the model's folder")
_LEFT_OUT = ("has no meaning here", "leave it out")
_ENGINE = ("is chosen with the engine", "pass engine='onnx' or 'openvino' for the CPU, 'keras' for a GPU")
# Argument -> the rule, and what to do.
_REFUSED = {
    "task": ("must be left out, because the only task is answering questions", "pass the model first"),
    "revision": (
        "is the newest one",
        "fetch another with huggingface_hub.snapshot_download(…, revision=…), and pass its folder",
    ),
    "token": _HF_TOKEN,
    "use_auth_token": _HF_TOKEN,
    "tokenizer": _OWN_FILES,
    "config": _OWN_FILES,
    "device": _ENGINE,
    "device_map": _ENGINE,
    "model_kwargs": ("is not passed on", "choose precision and engine"),
    "trust_remote_code": ("must be False, because code in a model's folder is never run", "leave it out"),
    "feature_extractor": _LEFT_OUT,
    "image_processor": _LEFT_OUT,
    "processor": _LEFT_OUT,
    "pipeline_class": _LEFT_OUT,
    "max_batch_size": _LEFT_OUT,
    "calibration_factor": ("is replaced by probabilities over all documents", "leave it out"),
    "answers_per_seq": ("is replaced by answers_per_document", "pass that"),
    "topk": ("must be given as top_k", "rename it"),
}


def check_arguments(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse arguments that do not exist here. None, and what no answer depends on, is accepted.

    Args:
        given: Arguments that the function does not declare.
        known: The names of those that it declares.

    Raises:
        UserError: An argument is refused or unknown; the message names it.
    """
    for name, value in given.items():
        if name in _REFUSED and (value is None or value is False):
            continue
        if name in _REFUSED:
            rule, advice = _REFUSED[name]
            received = "one" if "token" in name and name != "tokenizer" else shown(value)
            raise UserError(f"{name} {rule}; received {received}: {advice}")
        if name not in IGNORED:
            raise UserError(
                f"an argument must be one of {', '.join(known)}; received {name[:40]}: remove it or correct its name"
            )
