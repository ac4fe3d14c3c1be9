"""What a run or a sweep would refuse, checked before Keras or Optuna is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.model.folder import readable_config
from qa_fast.shards.compatibility import model_of
from qa_fast.sources import resolve_model
from qa_fast.train.config import SweepConfig, TrainConfig
from qa_fast.train.mix import Place, open_mix
from qa_fast.train.setup import check_out, validation_split

# The file in which a sweep keeps its study.
JOURNAL = "study.log"


def check_run(shards: Sequence[Place], config: TrainConfig) -> None:
    """Refuse what a run in one process would refuse, without a framework.

    The processes of a job must fail together, and check the same things when they have joined.

    Raises:
        UserError: The shards, a model or OUT cannot be used.
    """
    parts = open_mix(shards)
    first = parts[0].shards
    models = {"--model": model_of(first, config.model)}
    names = {"--teacher": config.teacher, "--init-head": config.init_head}
    models |= {option: resolve_model(name) for option, name in names.items() if name is not None}
    for option, folder in models.items():
        readable_config(folder, new_head=option == "--model")
    validation_split(first, config)
    check_out(Path(config.out), [*models.items(), *(("SHARDS", part.shards.folder) for part in parts)], config)


def check_sweep(shards: Sequence[Place], config: SweepConfig) -> None:
    """Refuse shards, a model or OUT that a sweep cannot use, before Optuna is imported.

    Raises:
        UserError: One of them cannot be used.
    """
    first = open_mix(shards)[0].shards
    readable_config(model_of(first, config.model), new_head=True)
    check_sweep_out(Path(config.out))


def check_sweep_out(out: Path) -> None:
    """Check that OUT is new, empty or the folder of a sweep.

    Raises:
        UserError: It holds other files.
    """
    names = store.names_in(out)
    if names and JOURNAL not in names:
        raise UserError(
            f"--out must be new, empty or the folder of a sweep; {out} holds other files "
            f"({', '.join(names[:3])}): choose another --out"
        )
