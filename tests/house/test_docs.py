"""Documents against the code: commands, flags, files, names, links."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.sources import parsed
from weft.cli.dispatch import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = {path.name: path.read_text() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}
MAKEFILE = (ROOT / "Makefile").read_text()

FLAGS_OF_TOOLS = {
    "--strict": "mypy", "--nproc-per-node": "torchrun", "--master-addr": "torchrun", "--no-python": "torchrun",
    "--ntasks-per-node": "srun",
}  # fmt: skip
"""Flags in documents that are not weft's."""


NOT_RESULTS = {"config.json", "stats-replica1.json"}
"""Files that documents name without a folder and that are no saved results."""


def targets() -> set[str]:
    """What make can make."""
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))


@cache
def flags_of_commands() -> dict[str, set[str]]:
    """All flags of every command of weft."""
    flags = {}
    for command in COMMANDS:
        parser = argparse.ArgumentParser()
        import_module(f"weft.cli.commands.{command.name.replace('-', '_')}").add_arguments(parser)
        flags[command.name] = {flag for action in parser._actions for flag in action.option_strings}
    return flags


@cache
def flags_of_other_engines() -> set[str]:
    """All flags that the tables of the dialects know."""
    tables = "".join(path.read_text() for path in (ROOT / "weft" / "tools" / "dialects").rglob("*.toml"))
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", tables))


@cache
def names_in_code() -> set[str]:
    """Every identifier that a module of weft defines or uses."""
    names: set[str] = set()
    for path in (ROOT / "weft").rglob("*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                found = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
                names |= {target.id for target in found if isinstance(target, ast.Name)}
            elif isinstance(node, ast.arg):
                names.add(node.arg)
    return names


@pytest.mark.parametrize("name", DOCS)
def test_make_targets_exist(name: str) -> None:
    asked = set(re.findall(r"(?:^|`)make ([a-z-]+)", DOCS[name], re.M))
    assert asked <= targets()


@pytest.mark.parametrize("name", DOCS)
def test_commands_exist(name: str) -> None:
    asked = set(re.findall(r"(?:^|`)weft ([a-z-]+)\b", DOCS[name], re.M))
    code = "\n".join(re.findall(r"`[^`]+`|^```.*?^```", DOCS[name], re.S | re.M))
    asked = {word for word in asked if re.search(rf"(?:^|`)weft {word}\b", code, re.M)}
    assert asked <= {command.name for command in COMMANDS}


@pytest.mark.parametrize("name", DOCS)
def test_flags_exist(name: str) -> None:
    known = {"--version", "--help", *FLAGS_OF_TOOLS}.union(*flags_of_commands().values())
    if name == "translating.md":
        known |= flags_of_other_engines()
    asked = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", DOCS[name]))
    assert asked <= known


def test_flags_belong_to_their_command() -> None:
    known = flags_of_commands()
    for name, text in DOCS.items():
        for command, rest in re.findall(r"(?:^|`)weft ([a-z]+) ([^`\n]*)", text, re.M):
            own = rest.partition(" -- ")[0]  # after -- stand another engine's words
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", own):
                assert flag in known[command] | {"--help"}, f"{name}: weft {command} {flag}"


@pytest.mark.parametrize("name", DOCS)
def test_named_files_exist(name: str) -> None:
    """Paths in backticks that start with a folder of the repository."""
    folders = "weft|docs|tests|layouts|scripts|benchmarks"
    for path in re.findall(rf"`((?:{folders})/[\w./<>*-]*)`", DOCS[name]):
        if "<" in path:
            continue
        assert list(ROOT.glob(path.rstrip("/"))), f"{name} names {path}"


@pytest.mark.parametrize("name", DOCS)
def test_named_results_exist(name: str) -> None:
    """Files in backticks that are named without their folder are saved results."""
    for file in re.findall(r"`([\w-]+\.(?:md|json))`", DOCS[name]):
        if file not in NOT_RESULTS | set(DOCS):
            assert (ROOT / "benchmarks" / "results" / file).is_file(), f"{name} names {file}"


@pytest.mark.parametrize("name", DOCS)
def test_links_lead_somewhere(name: str) -> None:
    here = ROOT if (ROOT / name).exists() else ROOT / "docs"
    for target, place in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", DOCS[name]):
        if target.startswith("http"):
            continue
        assert (here / target).exists(), f"{name} links to {target}"
        if place:
            page = DOCS[name] if not target else (here / target).read_text()
            assert place in anchors(page), f"{name} links to {target}#{place}"


def anchors(page: str) -> list[str]:
    """As a reader's browser finds headings: small letters, no marks, dashes for spaces."""
    headings = re.findall(r"^#+ (.*)$", page, re.M)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_glossary_names_exist() -> None:
    names = names_in_code()
    asked = re.findall(r"\*\*[^*]+\*\* \(`(\w+)`\)", DOCS["glossary.md"])
    assert len(asked) > 30
    assert [name for name in asked if name not in names] == []


def test_glossary_words_are_told_once() -> None:
    words = re.findall(r"\*\*([^*]+)\*\*", DOCS["glossary.md"])
    assert sorted({word for word in words if words.count(word) > 1}) == []


def test_the_life_of_a_token_names_real_functions() -> None:
    """`file.py` `function` pairs: the function must stand in that file."""
    page = DOCS["life_of_a_token.md"]
    steps = re.findall(r"`([\w/]+\.(?:py|cpp))` `(\w+)`", page)
    assert len(steps) > 15
    for path, name in steps:
        assert re.search(rf"\b{name}\b", (ROOT / "weft" / path).read_text()), f"{name} is not in weft/{path}"


def test_the_page_of_faults_names_real_tests() -> None:
    asked = set(re.findall(r"`(test_\w+)`", DOCS["faults.md"]))
    there = {
        name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(asked) > 50 and asked <= there


def test_environment_variables_are_told() -> None:
    asked = {word for text in DOCS.values() for word in re.findall(r"\bWEFT_[A-Z_]+\b", text)} - {"WEFT_TEST_SEED"}
    read = set()
    for path in (ROOT / "weft").rglob("*.py"):
        read |= set(re.findall(r"\bWEFT_[A-Z_]+\b", path.read_text()))
    assert asked <= read
    assert read <= set(re.findall(r"\bWEFT_[A-Z_]+\b", (ROOT / "weft" / "base" / "env.py").read_text())), (
        "env.py lists them all"
    )


def test_python_examples_compile() -> None:
    for text in DOCS.values():
        for block in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
            compile(block, "example", "exec")


def test_pyproject_and_constraints_agree() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pinned = {name.lower().replace("_", "-") for name in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["dev"], *extras["docs"]]
    wanted = {re.split(r"[\[<>=~! ]", line)[0].lower().replace("_", "-") for line in lines}
    assert wanted <= pinned
    assert "+" not in "".join(pins.values()), "a local version would fit one kind of machine only"


def test_the_help_of_the_makefile_is_whole() -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=240, check=True).stdout
    assert all(f"make {target}" in told for target in targets() - {"help"})


@pytest.mark.parametrize("layout", ["", "layouts/two-ranks.yaml"])
def test_make_serves_one_rank_unless_a_layout_is_named(layout: str) -> None:
    command = ["make", "-n", "serve", f"LAYOUT={layout}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True).stdout
    (line,) = (line for line in said.splitlines() if "weft.cli.main serve" in line)
    assert ("--layout" in line) == bool(layout) and f"serve {'--layout ' + layout if layout else ''}" in line


def test_ci_runs_what_a_person_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text()


def run_weft(*words: str) -> str:
    """What `weft WORDS...` prints; it must succeed."""
    command = [sys.executable, "-m", "weft.cli.main", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_the_commands() -> None:
    assert all(f"  {command.name} " in run_weft("--help") for command in COMMANDS)
