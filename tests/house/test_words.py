"""What the code may not say: unsafe calls, prints in libraries, machine paths, index addresses, unfinished work."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.sources import parsed

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".venv", "build", "__pycache__", "_build"}
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".cpp", ".h", ".jinja", ""}

MAY_PRINT = ("weft/cli/", "scripts/", "benchmarks/", "weft/compute/native/build.py")


def ours() -> Iterator[Path]:
    """Every text file of the working copy that belongs to it."""
    for folder, below, names in os.walk(ROOT):
        below[:] = sorted(name for name in below if is_ours(name))
        yield from (Path(folder, name) for name in sorted(names) if is_ours(name) and Path(name).suffix in TEXT)


def is_ours(name: str) -> bool:
    """Of a file or a folder; what is in a folder that is not ours is not looked at."""
    hidden = name.startswith(".") and name not in (".ci", ".gitignore")
    return not hidden and name not in NOT_OURS and not name.endswith(".egg-info")


FILES = {str(path.relative_to(ROOT)): path for path in ours()}


@cache
def code() -> dict[str, ast.Module]:
    """Every Python file; seconds to parse, so not while tests are collected."""
    return {name: parsed(path) for name, path in FILES.items() if name.endswith(".py")}


def product() -> dict[str, ast.Module]:
    """Without the tests."""
    return {name: tree for name, tree in code().items() if not name.startswith("tests/")}


def dotted(node: ast.expr) -> str:
    """a.b.c as text; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and dotted(node.value):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    """The value of a keyword argument."""
    return next((word.value for word in call.keywords if word.arg == name), None)


def is_pickle(node: ast.AST) -> bool:
    names = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in names for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in names


def is_unsafe_call(node: ast.AST) -> bool:
    """torch.load, eval, exec, os.system, and whatever takes a shell."""
    if not isinstance(node, ast.Call):
        return False
    shell = keyword(node, "shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        return True
    return dotted(node.func) in {"torch.load", "eval", "exec", "os.system", "os.popen", "yaml.unsafe_load"}


def is_bare_except(node: ast.AST) -> bool:
    return isinstance(node, ast.ExceptHandler) and node.type is None


def is_assert_for_users(node: ast.AST) -> bool:
    """`assert False, message` is an error in disguise."""
    return isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant)


def is_global(node: ast.AST) -> bool:
    return isinstance(node, ast.Global)


def is_not_implemented(node: ast.AST) -> bool:
    return isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.dump(node.exc)


@pytest.mark.parametrize(
    "wrong", [is_pickle, is_unsafe_call, is_bare_except, is_assert_for_users, is_global, is_not_implemented]
)
def test_the_product_never(wrong: Callable[[ast.AST], bool]) -> None:
    found = [f"{name}:{node.lineno}" for name, tree in product().items() for node in ast.walk(tree) if wrong(node)]  # type: ignore[attr-defined]
    assert not found


def safe_loaders(tree: ast.Module) -> set[str]:
    """SafeLoader, its C twin, and classes of this file that derive from one of them."""
    safe = {"yaml.SafeLoader", "yaml.CSafeLoader", "SafeLoader", "CSafeLoader"}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return safe | {node.name for node in classes if any(dotted(base) in safe for base in node.bases)}


def test_yaml_is_loaded_safely() -> None:
    found = []
    for name, tree in code().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and dotted(node.func) in {"yaml.load", "yaml.load_all"}:
                loader = keyword(node, "Loader") or (node.args[1] if len(node.args) > 1 else None)
                if loader is None or dotted(loader) not in safe_loaders(tree):
                    found.append(f"{name}:{node.lineno}")
    assert not found


def test_libraries_do_not_print() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in product().items()
        if not name.startswith(MAY_PRINT)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func) == "print"
    ]
    assert not found


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Catches everything and lets nothing through: a handler that ends in `raise` only tidies up."""
    last = handler.body[-1]
    passes_on = isinstance(last, ast.Raise) and last.exc is None
    return handler.type is not None and dotted(handler.type) in {"Exception", "BaseException"} and not passes_on


def test_a_broad_except_gives_its_reason() -> None:
    found = []
    for name, tree in product().items():
        lines = FILES[name].read_text().splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and is_broad(node):
                if not any("#" in line for line in lines[node.lineno - 2 : node.lineno + 1]):
                    found.append(f"{name}:{node.lineno}")
    assert not found


# Written in pieces, so that this file does not find itself.
FORBIDDEN = {
    "machine path": r"(?<![\w.])/(?:" + "|".join(["ro" + "ot", "wo" + "rk", "ho" + "me", "op" + "t"]) + r")/\w",
    "scratch path": "/tm" + r"p/w\b",
    "shared memory folder": "/dev" + "/shm",
    "package index": "|".join(["pypi" + r"\.org", "download" + r"\.pytorch\.org", "/sim" + "ple/"]),
    "unfinished work": r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b",
}

TESTS_MAY = {"shared memory folder"}
"""A test or a measurement of faults looks there to see that nothing was left."""


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, path in FILES.items()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line) and not (name.startswith(("tests/", "benchmarks/")) and what in TESTS_MAY)
    ]
    assert not found


def test_the_patterns_find_what_they_are_for() -> None:
    samples = {
        "machine path": "open('/ro" + "ot/x')",
        "scratch path": "/tm" + "p/w/x",
        "shared memory folder": "/dev" + "/shm/x",
        "package index": "https://pypi" + ".org/x",
        "unfinished work": "# TO" + "DO: later",
    }
    assert {what for what, text in samples.items() if re.search(FORBIDDEN[what], text)} == set(FORBIDDEN)
