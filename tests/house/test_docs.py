"""Documents against the code: commands, flags, files, names, links."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.sources import parsed
from weft.cli.dispatch import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = {path.name: path.read_text() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}
MAKEFILE = (ROOT / "Makefile").read_text()
RESULTS = ROOT / "benchmarks" / "results"
FLAG = r"(?<![\w-])--[a-z][\w-]*"

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


CODE = {name: "\n".join(re.findall(r"`[^`]+`|^```.*?^```", text, re.S | re.M)) for name, text in DOCS.items()}


def missing(pattern: str, known: Callable[[str, str], bool], pages: Mapping[str, str] = DOCS) -> list[tuple[str, str]]:
    """(page, word) of what a pattern finds and `known` refuses; it must find something."""
    found = [(name, word) for name, text in pages.items() for word in re.findall(pattern, text, re.M)]
    assert found
    return [each for each in found if not known(*each)]


def test_make_targets_exist() -> None:
    assert missing(r"(?:^|`)make ([a-z-]+)", lambda name, word: word in targets()) == []


def test_commands_exist() -> None:
    commands = {command.name for command in COMMANDS}
    assert missing(r"(?:^|`)weft ([a-z-]+)\b", lambda name, word: word in commands, CODE) == []


def test_flags_exist() -> None:
    known = {"--version", "--help", *FLAGS_OF_TOOLS}.union(*flags_of_commands().values())
    foreign = {"translating.md": flags_of_other_engines()}
    assert missing(FLAG, lambda name, word: word in known or word in foreign.get(name, ())) == []


def test_flags_belong_to_their_command() -> None:
    known = flags_of_commands()
    for name, text in DOCS.items():
        for command, rest in re.findall(r"(?:^|`)weft ([a-z]+) ([^`\n]*)", text, re.M):
            own = rest.partition(" -- ")[0]  # after -- stand another engine's words
            for flag in re.findall(FLAG, own):
                assert flag in known[command] | {"--help"}, f"{name}: weft {command} {flag}"


def test_named_files_exist() -> None:
    """Paths in backticks that start with a folder of the repository; without a folder they are saved results."""
    paths = r"`((?:weft|docs|tests|layouts|scripts|benchmarks)/[\w./*-]*)`"
    assert missing(paths, lambda name, path: any(ROOT.glob(path.rstrip("/")))) == []
    others = NOT_RESULTS | set(DOCS)
    assert missing(r"`([\w-]+\.(?:md|json))`", lambda name, file: file in others or (RESULTS / file).is_file()) == []


def test_saved_results_have_a_machine_and_a_commit() -> None:
    index = tomllib.loads((RESULTS / "index.toml").read_text())
    assert {path.name for path in RESULTS.iterdir()} == {*index, "index.toml"}
    machines = set(re.findall(r"^\| (\w+) \|", DOCS["measured.md"], re.M))
    for name, entry in index.items():
        assert set(entry) == {"what", "machine", "commit"} and entry["what"] and entry["machine"] in machines, name
        assert re.fullmatch(r"[0-9a-f]{12}", entry["commit"]), name
        assert not name.endswith(".json") or f"`{entry['commit'][:9]}`" in DOCS["tables.md"], name
        assert re.fullmatch(rf"[a-z0-9-]+-{entry['machine']}\.(json|md|png)", name)


def test_links_lead_somewhere() -> None:
    for name, text in DOCS.items():
        here = ROOT if (ROOT / name).exists() else ROOT / "docs"
        for target, place in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", text):
            assert (here / target).exists(), f"{name} links to {target}"
            page = text if not target else place and (here / target).read_text()
            assert not place or place in anchors(page), f"{name} links to {target}#{place}"


def anchors(page: str) -> list[str]:
    """As a reader's browser finds headings: small letters, no marks, dashes for spaces."""
    headings = re.findall(r"^#+ (.*)$", page, re.M)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_glossary_names_exist() -> None:
    names = names_in_code()
    asked = re.findall(r"\*\*[^*]+\*\* \(`(\w+)`\)", DOCS["glossary.md"])
    assert len(asked) > 30
    assert [name for name in asked if name not in names] == []


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
