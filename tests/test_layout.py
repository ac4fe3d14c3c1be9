"""The rooms of the package and the stage line: every import points back along it, and no circle exists."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "qa_fast"

# A room is a folder or a loose module of the package. It may import the rooms before it, and no others.
STAGE_LINE = (
    *("errors", "version", "options", "schema", "raw", "temporary", "store", "locks", "signals", "buffers"),
    *("scripts", "parallel", "progress", "cache", "backend"),
    *("kernels", "html", "model", "sources", "encode", "features", "batches", "feeds", "shards", "show"),
    *("graph", "infer", "builder", "answer", "scoring", "report", "hub", "train", "keras_model"),
    *("keras_names", "serve", "export", "integrations", "dataset", "cli"),
)
# Pairs of rooms, the first of which may import the second although it stands before it.
ALLOWED: set[tuple[str, str]] = set()


def modules() -> dict[str, Path]:
    """The modules of the package by their dotted names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports anywhere: at its top, inside functions, and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "qa_fast":
            for name in node.names:
                full = f"{node.module}.{name.name}"
                found.add(full if full in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.split(".")[0] == "qa_fast"}
    return found


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """For each module the modules that it imports. The face of the package, `qa_fast/__init__.py`, is left out."""
    known = modules()
    return {name: imports(path, known) - {name, "qa_fast"} for name, path in known.items() if name != "qa_fast"}


def room_of(module: str) -> str:
    """Return the room of a module."""
    return module.split(".")[1]


def test_the_rooms_are_those_of_the_stage_line() -> None:
    rooms = {room_of(name) for name in modules() if name != "qa_fast"}
    assert rooms == set(STAGE_LINE)
    assert len(rooms) <= 40


def test_imports_point_back_along_the_stage_line(arrows: dict[str, set[str]]) -> None:
    place = {room: number for number, room in enumerate(STAGE_LINE)}
    against = defaultdict(list)
    for name, imported in arrows.items():
        for other in imported:
            if place[room_of(other)] > place[room_of(name)]:
                against[room_of(name), room_of(other)].append(f"{name} imports {other}")
    assert set(against) == ALLOWED, dict(against)


def test_no_modules_import_each_other_in_a_circle(arrows: dict[str, set[str]]) -> None:
    graph = {
        name: {other for other in imported if (room_of(name), room_of(other)) not in ALLOWED}
        for name, imported in arrows.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_kernels_import_nothing_else() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "numba", "llvmlite"}
    for path in (PACKAGE / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                known = name.split(".")[0] in allowed or name.startswith("qa_fast.kernels")
                # How compiled kernels are kept is decided where all caches are.
                ours = path.name == "jit.py" and name in ("qa_fast.cache", "qa_fast.errors")
                assert known or ours, f"{path}: {name}"


def test_one_module_imports_the_rust_library_of_tokenizers() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            found |= {path.relative_to(PACKAGE).as_posix() for name in names if name.split(".")[0] == "tokenizers"}
    assert found == {"encode/library.py"}


def test_architecture_lists_every_room_in_the_order_of_the_line() -> None:
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text("utf-8")
    rows = [line.split("|")[1].strip().strip("`").removesuffix("/") for line in text.splitlines() if line[:3] == "| `"]
    assert [row.removesuffix(".py") for row in rows if row.removesuffix(".py") in STAGE_LINE] == list(STAGE_LINE)
