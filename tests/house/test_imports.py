"""Which package may import which: the table of docs/architecture.md against every import statement of the package."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.sources import parsed

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "weft").rglob("*.py"))

DEFERRED_ALLOWED = {
    "weft": {"__getattr__"},  # weft.LLM: `import weft` alone stays light
    "weft.checkpoint.hub.paths": {"model_path"},  # an HTTP client, for models that are no path
    "weft.checkpoint.open": {"open_checkpoint"},  # the gguf package; ranks open no files
    "weft.cli.main": {"main", "_open_closed"},  # all of weft: Ctrl-C meanwhile is no traceback
    "weft.cli.args.dialects": {"take_foreign"},  # all of weft.dialects, for words of other engines
    "weft.cli.commands.explain": {"_cores"},  # what a start decides, for cores that are asked for
    "weft.cli.view.phases": {"__init__", "_table"},  # rich, for terminals
    "weft.cli.args.vllm_words": {"said_of"},  # vLLM's flags, for one that is unknown
    "weft.ops": {"_device_ops", "_why_no_kernels"},  # Triton, which only a torch for devices brings
}
"""Functions that may hold an import statement, by module: what is slow to import, and seldom needed for `weft serve`
(`benchmarks/start.py`)."""

BY_NAME_ALLOWED = {
    "weft",  # weft.LLM and its parameters, when they are first asked for
    "weft.cli.dispatch",  # the table of commands: `weft explain` loads no server
    "weft.launchers.ray_cluster",  # Ray is optional
    "weft.bench.plot",  # matplotlib is optional
    "weft.experts.pictures.draw",  # the same
    "weft.dialects.registry",  # the table of dialects
    "weft.comm.backend",  # the part of a backend that imports torch, in a rank alone
    "weft.quant.registry",  # the table of quantization formats
    "weft.worker.main",  # tied to its parent before a second of importing torch
}
"""Modules that may import by name."""


def module_name(path: Path) -> str:
    """weft/layout/splits.py -> weft.layout.splits; weft/layout/__init__.py -> weft.layout."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def tree(module: str) -> ast.Module:
    return parsed(MODULES[module])


def read_table() -> list[tuple[str, list[str]]]:
    """Lines of the table, lowest first: (level, package or module names)."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = re.search(r"## Packages, and which may import which\n+```\n(.*?)```", text, re.S)
    assert block, "docs/architecture.md has lost its table"
    lines = []
    for line in block[1].splitlines():
        level, rest = line.split(None, 1)
        names = [name.removesuffix(".py") for name in re.split(r" {3,}", rest)[0].split()]
        lines.append((level, names))
    return lines[::-1]


TABLE = read_table()
HEIGHT = {name: height for height, (_, names) in enumerate(TABLE) for name in names}


def top(module: str) -> str:
    """The package or module right under weft; "" for weft itself."""
    return module.split(".")[1] if "." in module else ""


def targets(node: ast.stmt) -> Iterator[str]:
    """Dotted names that an import statement asks for; `from a import b` gives a.b where that is a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative imports hide the package"
        base = node.module or ""
        for alias in node.names:
            dotted = f"{base}.{alias.name}"
            yield dotted if dotted in MODULES else base


@cache
def imports(module: str) -> set[str]:
    """Everything that a module imports, wherever the statement stands."""
    return {name for node in ast.walk(tree(module)) if isinstance(node, ast.stmt) for name in targets(node)}


def own(names: set[str]) -> set[str]:
    """Those of weft."""
    return {name for name in names if name.split(".")[0] == "weft"}


def test_the_table_names_what_exists() -> None:
    on_disk = {top(name) for name in MODULES} - {""}
    assert on_disk - set(HEIGHT) == set(), "not in the table of docs/architecture.md"
    assert set(HEIGHT) - on_disk == set(), "in the table of docs/architecture.md, but not there"


def test_imports_point_down() -> None:
    for module in sorted({*MODULES} - {"weft"}):
        here = top(module)
        for name in own(imports(module)):
            there = top(name)
            if there not in ("", here):
                assert HEIGHT[there] < HEIGHT[here], f"{module} imports {name}, but {there} is on no lower line"


def deferred(module: str) -> Iterator[tuple[str, int]]:
    """(function, line) of every import inside a function."""
    for function in ast.walk(tree(module)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield function.name, node.lineno


def test_imports_stand_at_the_top() -> None:
    assert [
        f"{path}:{line} in {name}"
        for module, path in MODULES.items()
        for name, line in deferred(module)
        if name not in DEFERRED_ALLOWED.get(module, set())
    ] == []


DISTRIBUTION = {"yaml": "PyYAML", "prometheus_client": "prometheus-client"}
"""Distributions that are named otherwise than what they bring."""
LOADED_BY_OTHERS = {"uvloop", "httptools"}
"""uvicorn takes these where they are installed."""
BROUGHT_BY_TORCH = {"triton"}
"""Where torch is built for devices; nothing imports it elsewhere."""


def test_dependencies_are_those_that_are_imported() -> None:
    used = {name.split(".")[0] for module in MODULES for name in imports(module)} - sys.stdlib_module_names - {"weft"}
    used -= BROUGHT_BY_TORCH
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    declared = {re.split(r"[\[<>=~! ]", line)[0] for line in lines}
    assert {DISTRIBUTION.get(name, name) for name in used} | LOADED_BY_OTHERS == declared


def test_few_modules_import_by_name() -> None:
    callers = {
        module
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__")
    }
    assert callers <= BY_NAME_ALLOWED


def test_no_cycles() -> None:
    graph = {name: own(imports(name)) & set(MODULES) - {name} for name in MODULES if name != "weft"}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


TORCH_FREE = {"ipc", "engine", "launch_plan", "supervisor"}
"""Packages above the line where torch begins that import without it."""


def without_torch() -> list[str]:
    """Modules below the line where torch begins, those of `TORCH_FREE`, and the commands that may start ranks."""
    begins = HEIGHT["quant"]
    free = {name for name, height in HEIGHT.items() if height < begins} | TORCH_FREE
    commands = ["weft.cli.commands.explain", "weft.cli.commands.generate", "weft.cli.commands.serve"]
    return ["weft", *(name for name in sorted(MODULES) if top(name) in free), *commands]


BLOCKER = """
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Blocked())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def includes() -> dict[str, set[str]]:
    """The headers that each header of C++ includes, as they are written."""
    native = ROOT / "weft" / "native"
    found = {str(path.relative_to(native)): path.read_text() for path in native.rglob("*.h")}
    return {name: set(re.findall(r'^#include "(.+)"', text, re.MULTILINE)) for name, text in found.items()}


def test_kernels_include_nothing_that_includes_kernels() -> None:
    graph = includes()
    list(graphlib.TopologicalSorter(graph).static_order())  # raises at a cycle
    kernels = {name for name in graph if name.startswith("kernels/")}
    below = set().union(*(graph[name] for name in kernels)) - kernels
    while more := set().union(*(graph[name] for name in below)) - below:
        below |= more
    assert below and not below & kernels


def test_the_lower_lines_run_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER, *without_torch()], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKER, "weft.ops.base"], cwd=ROOT, capture_output=True, timeout=240)
    assert done.returncode != 0
