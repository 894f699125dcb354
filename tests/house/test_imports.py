"""Which wing may import which: the line of docs/architecture.md against every import statement of the package."""

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
    "weft.model.checkpoint.hub.paths": {"model_path"},  # an HTTP client, for models that are no path
    "weft.model.checkpoint.open": {"open_checkpoint"},  # the gguf package; ranks open no files
    "weft.cli.main": {"main", "_open_closed"},  # all of weft: Ctrl-C meanwhile is no traceback
    "weft.cli.args.dialects": {"take_foreign"},  # all of weft.tools.dialects, for words of other engines
    "weft.cli.commands.explain": {"_cores"},  # what a start decides, for cores that are asked for
    "weft.cli.view.phases": {"__init__", "_table"},  # rich, for terminals
    "weft.cli.args.vllm_words": {"said_of"},  # vLLM's flags, for one that is unknown
    "weft.compute.ops": {"_device_ops", "_why_no_kernels"},  # Triton, which only a torch for devices brings
}
"""Functions that may hold an import statement, by module: what is slow to import, and seldom needed for `weft serve`
(`benchmarks/start.py`)."""

BY_NAME_ALLOWED = {
    "weft",  # weft.LLM and its parameters, when they are first asked for
    "weft.cli.dispatch",  # the table of commands: `weft explain` loads no server
    "weft.runtime.launchers.ray_cluster",  # Ray is optional
    "weft.tools.bench.plot",  # matplotlib is optional
    "weft.parallel.experts.pictures.draw",  # the same
    "weft.tools.dialects.registry",  # the table of dialects
    "weft.compute.comm.backend",  # the part of a backend that imports torch, in a rank alone
    "weft.compute.quant.registry",  # the table of quantization formats
    "weft.runtime.worker.main",  # tied to its parent before a second of importing torch
}
"""Modules that may import by name."""


def module_name(path: Path) -> str:
    """weft/base/step/plan.py -> weft.base.step.plan; weft/base/step/__init__.py -> weft.base.step."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def tree(module: str) -> ast.Module:
    return parsed(MODULES[module])


def read_wings() -> list[str]:
    """Wings in the order of the line in docs/architecture.md, lowest first."""
    line = re.search(r"^    (base(?: < \w+)+)$", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    assert line, "docs/architecture.md has lost its line of wings"
    return line[1].split(" < ")


WINGS = read_wings()
HEIGHT = {name: height for height, name in enumerate(WINGS)}


def wing(module: str) -> str:
    """Name right under weft; "" for weft itself and `weft.__main__`."""
    return "" if module == "weft.__main__" or "." not in module else module.split(".")[1]


def package(module: str) -> str:
    """Package of a wing that a module belongs to: weft.parallel.layout.rows -> parallel.layout."""
    return ".".join(module.split(".")[1:3])


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


def test_the_line_names_the_wings() -> None:
    assert {wing(name) for name in MODULES} - {""} == set(WINGS)
    assert [name for name in WINGS if not (ROOT / "weft" / name / "README.md").exists()] == []


def test_no_import_runs_up() -> None:
    assert [
        f"{module} imports {name}"
        for module in sorted(MODULES)
        for name in own(imports(module))
        if wing(module) and wing(name) and HEIGHT[wing(name)] > HEIGHT[wing(module)]
    ] == []


def test_no_cycles_of_packages() -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        found = {package(name) for name in own(imports(module)) if wing(name)}
        graph.setdefault(package(module), set()).update(found - {package(module)})
    try:
        graphlib.TopologicalSorter({name: found for name, found in graph.items() if name}).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


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


TORCH_FREE = (
    "weft.base weft.parallel weft.compute.native weft.compute.grammars weft.model.checkpoint weft.engine "
    "weft.runtime.ipc weft.runtime.launch_plan weft.runtime.supervisor weft.tools.explain weft.tools.dialects "
    "weft.frontend.chat weft.frontend.text_worker"
).split()
"""Wings and packages that import where torch is not installed."""


def without_torch() -> list[str]:
    """Modules of `TORCH_FREE`, and the commands that may start ranks."""
    commands = ["weft.cli.commands.explain", "weft.cli.commands.generate", "weft.cli.commands.serve"]
    free = tuple(f"{name}." for name in TORCH_FREE)
    return ["weft", *(name for name in sorted(MODULES) if f"{name}.".startswith(free)), *commands]


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


def test_torch_free_packages_import_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER, *without_torch()], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER, "weft.compute.ops.base"], cwd=ROOT, capture_output=True, timeout=240
    )
    assert done.returncode != 0
