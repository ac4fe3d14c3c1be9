"""The tiers of the tests: the fast one covers every room, and no framework is imported to collect tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import IMPORTED_BY_COLLECTION

ROOT = Path(__file__).parents[1]
TIERS = ("slow", "cluster", "browser")
# Rooms that the tests of another room cover.
COVERED_BY = {"graph": "export", "kernels": "encode"}
FRAMEWORKS = {"datasets", "haystack", "jax", "keras", "pyspark", "ray", "tensorflow", "torch", "transformers"}


def is_marked(nodes: list[ast.expr]) -> bool:
    """Return whether one of the expressions is the mark of a tier, or a list that holds one."""
    names = {inner.attr for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
    return bool(names & set(TIERS))


def fast_tests(path: Path) -> list[str]:
    """Return the names of the unmarked test functions of a file."""
    body = ast.parse(path.read_text("utf-8")).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark" and is_marked([node.value]):
            return []
    tests = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return [node.name for node in tests if not is_marked(node.decorator_list)]


@pytest.mark.parametrize("room", sorted(path.parent.name for path in ROOT.glob("qa_fast/*/__init__.py")))
def test_every_room_has_a_fast_test(room: str) -> None:
    files = (ROOT / "tests" / COVERED_BY.get(room, room)).glob("test_*.py")
    assert any(fast_tests(path) for path in files)


def test_collecting_imports_no_framework(pytestconfig: pytest.Config) -> None:
    """Of the tests that this run has collected: all of them in a whole run."""
    assert pytestconfig.stash[IMPORTED_BY_COLLECTION] & FRAMEWORKS == set()
