"""Sizes of files and functions, and a docstring at the top of every module."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.support.sources import parsed

ROOT = Path(__file__).resolve().parents[2]
CODE = sorted(path for folder in ("weft", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FILE_LIMIT = 300
LONG_FUNCTION = 50
LONG_SHARE = 0.02
MEAN_LIMIT = 15
IGNORES = 30


@cache
def trees() -> dict[Path, ast.Module]:
    """Every file of the product, the scripts and the tests."""
    return {path: parsed(path) for path in (*CODE, *TESTS)}


@cache
def function_lengths() -> dict[str, int]:
    """Lines of every function, from its def (decorators excluded) to its end."""
    lengths = {}
    for path in CODE:
        for node in ast.walk(trees()[path]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lengths[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = node.end_lineno - node.lineno + 1
    return lengths


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in CODE}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LIMIT} == {}


def test_few_functions_are_long() -> None:
    lengths = function_lengths()
    long = {name: lines for name, lines in lengths.items() if lines > LONG_FUNCTION}
    assert len(long) <= LONG_SHARE * len(lengths), long


def test_functions_are_short_on_average() -> None:
    lengths = function_lengths()
    assert sum(lengths.values()) <= MEAN_LIMIT * len(lengths)


def test_few_types_of_tests_are_ignored() -> None:
    """mypy checks the tests as strictly as the product."""
    ignored = [str(path.relative_to(ROOT)) for path in TESTS for _ in re.finditer("# type: ignore", path.read_text())]
    assert len(ignored) <= IGNORES, ignored


def test_modules_open_with_a_docstring() -> None:
    assert [str(path.relative_to(ROOT)) for path, tree in trees().items() if not ast.get_docstring(tree)] == []


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in TESTS if path.name != "conftest.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []
