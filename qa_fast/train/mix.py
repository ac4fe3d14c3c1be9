"""Several folders of shards trained on together, each with a weight.

A weight says how often an epoch goes over the folder: 1 is every feature once, 2 every feature twice, 0.5 half of them.
So a small data set can be seen more often, or a large one less often, and the sizes decide the length of an epoch. The
features of a folder are taken in random passes: those that an epoch does not reach come in the next epoch, before any
feature is repeated. The features of an epoch are a pure function of sizes, weights, seed and epoch; their order is
decided by `batches.training_plan`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from qa_fast.errors import UserError
from qa_fast.schema import Features, Int32s, Int64s
from qa_fast.shards import CHECKSUM, TRAIN, Shards, Split, open_shards
from qa_fast.store import is_url, local_path
from qa_fast.train.config import TrainConfig
from qa_fast.train.setup import chosen_rows

_STREAM = 7  # separates these random streams from those of `training_plan`
Place = str | os.PathLike[str]  # a folder of shards: a name, a URL, or opened `Shards`


@dataclass(frozen=True)
class Part:
    """A folder of a mix.

    Attributes:
        shards: The folder, which has a split named train.
        weight: How often an epoch goes over it.
    """

    shards: Shards
    weight: float = 1.0

    @property
    def train(self) -> Split:
        """The split to train on."""
        return self.shards.split(TRAIN)


def open_mix(named: Sequence[Place]) -> list[Part]:
    """Open folders or URLs such as "shards" and "shards:0.5".

    Raises:
        UserError: A weight is not above 0, a folder cannot be used, or the tokenizers differ.
    """
    if not named:
        raise UserError(
            "train needs at least one folder of shards; received none: name one that 'qa-fast featurize' made"
        )
    parts = []
    for name in named:
        folder, weight = _weighted(name)
        shards = folder if isinstance(folder, Shards) else open_shards(folder)
        if TRAIN not in shards.names:
            raise UserError(
                f"shards must hold a split named train; {str(shards.folder)!r} has {', '.join(shards.names)}: "
                "featurize a source with one"
            )
        parts.append(Part(shards, weight))
    first = parts[0].shards.manifest["model"]
    for part in parts[1:]:
        other = part.shards.manifest["model"]
        if other["tokenizer_hash"] != first["tokenizer_hash"]:
            raise UserError(
                f"shards that are trained on together must have the same tokenizer; {parts[0].shards.folder} was made "
                f"with that of {first['name']} ({first['tokenizer_hash'][:12]}), {part.shards.folder} with that of "
                f"{other['name']} ({other['tokenizer_hash'][:12]}): featurize one of them again with the --model of "
                "the other"
            )
    return parts


def fingerprints(parts: Sequence[Part], validation: str) -> list[dict[str, Any]]:
    """Return the identity of the data, independent of the names of folders: weights, and checksums of both splits.

    Raises:
        UserError: The first folder has no split named `validation`.
    """
    first = parts[0].shards
    if validation not in first.names:
        raise UserError(
            f"--validation must be a split of the first folder; received {validation!r}, and {first.folder} has "
            f"{', '.join(first.names)}: choose one of them, or featurize a source with such a split"
        )
    prints = []
    for part in parts:
        splits = part.shards.manifest["splits"]
        checksums = [file[CHECKSUM] for name in (TRAIN, validation) for file in splits.get(name, {}).get("shards", [])]
        prints.append({"weight": part.weight, "checksum": xxhash.xxh3_128_hexdigest(" ".join(checksums).encode())})
    return prints


def _weighted(name: Place) -> tuple[Place, float]:
    if not isinstance(name, str | Path):  # opened shards, or a path of another file system
        return name, 1.0
    folder, colon, text = str(name).rpartition(":")
    if not colon or (not is_url(name) and local_path(str(name)).exists()):
        return name, 1.0
    try:
        weight = float(text)
    except ValueError:
        return name, 1.0  # a name with a colon; opening reports whether it exists
    if not (weight > 0 and math.isfinite(weight)):
        raise UserError(
            f"a folder's weight (how often an epoch goes over it) must be above 0; received {str(name)!r}: try "
            f"{folder}:0.5"
        )
    return folder, weight


@dataclass(frozen=True)
class Mix:
    """The features that a run trains on; rows count over the features of all folders.

    Attributes:
        parts: The folders. The first one decides everything that concerns the whole run, such as validation.
        pools: For each folder int64, increasing, its features to train on.
    """

    parts: list[Part]
    pools: list[Int64s]

    @property
    def chunks(self) -> list[Features]:
        """The chunks of all folders."""
        return [chunk for part in self.parts for chunk in part.train.chunks]

    @property
    def rows(self) -> Int64s:
        """int64, the features to train on in all folders."""
        return np.concatenate(self.pools)

    @property
    def sizes(self) -> list[int]:
        """The number of features that an epoch takes from each folder."""
        return [epoch_size(len(pool), part.weight) for pool, part in zip(self.pools, self.parts, strict=True)]

    @property
    def max_length(self) -> int:
        """The largest `--max-length` of the folders."""
        return max(part.train.max_length for part in self.parts)

    def tokens(self, lengths: Int32s) -> int:
        """Return the number of tokens in an epoch; the expected number where it takes part of a folder."""
        means = [float(lengths[pool].mean()) if len(pool) else 0.0 for pool in self.pools]
        return round(sum(size * mean for size, mean in zip(self.sizes, means, strict=True)))

    def epoch(self, seed: int, epoch: int) -> Int64s:
        """Return the rows of an epoch, see `epoch_rows`."""
        return epoch_rows(self.pools, [part.weight for part in self.parts], seed, epoch)

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run is resumed."""
        files = [file for part in self.parts for file in part.shards.manifest["splits"][TRAIN].get("shards", [])]
        identity: dict[str, Any] = {"checksums": [file[CHECKSUM] for file in files], "features": len(self.rows)}
        weights = [part.weight for part in self.parts]
        return identity if weights == [1.0] else identity | {"weights": weights}

    def facts(self) -> list[dict[str, Any]]:
        """Return each folder's source name, weight and number of features, for the record of a run."""
        return [
            {"name": Path(part.shards.manifest["source"]["name"]).name, "weight": part.weight, "features": len(pool)}
            for part, pool in zip(self.parts, self.pools, strict=True)
        ]


def select_mix(parts: Sequence[Part], config: TrainConfig) -> Mix:
    """Choose the features to train on: those of the examples that `max_examples` chooses from all folders.

    Raises:
        UserError: A folder has no features.
    """
    examples, bounds, first = [], [0], 0
    for part in parts:
        example = np.concatenate([chunk.example_index for chunk in part.train.chunks] or [np.zeros(0, np.int32)])
        if not len(example):
            raise UserError(
                f"the split named train must hold features; {part.shards.folder} has none: featurize a source with "
                "examples"
            )
        examples.append(example.astype(np.int64) + first)
        first += int(example.max()) + 1
        bounds.append(bounds[-1] + len(example))
    rows = chosen_rows(np.concatenate(examples), config)
    return Mix(list(parts), np.split(rows, np.searchsorted(rows, bounds[1:-1])))


def epoch_size(features: int, weight: float) -> int:
    """Return how many features of a folder an epoch takes; at least one, unless the folder has none."""
    return max(1, round(weight * features)) if features else 0


def epoch_rows(pools: Sequence[Int64s], weights: Sequence[float], seed: int, epoch: int) -> Int64s:
    """Return the features of an epoch, int64, sorted; a feature may occur several times.

    Args:
        pools: For each folder int64, its features.
        weights: The weight of each folder.
        seed: The run's seed.
        epoch: Counts from 0.
    """
    taken = []
    for number, (pool, weight) in enumerate(zip(pools, weights, strict=True)):
        size = epoch_size(len(pool), weight)
        begin, end = epoch * size, (epoch + 1) * size
        while begin < end:
            turn, offset = divmod(begin, len(pool))
            order = np.random.default_rng([_STREAM, seed, number, turn]).permutation(pool)
            piece = order[offset : offset + end - begin]
            taken.append(piece)
            begin += len(piece)
    return np.sort(np.concatenate(taken)) if taken else np.zeros(0, np.int64)
