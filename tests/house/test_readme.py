"""The README against the code; every command and snippet in it runs as it is written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.pictures import explain_words
from tests.support.tiny_chat import write_tiny_chat
from weft.cli.commands import bench
from weft.cli.dispatch import COMMANDS
from weft.cli.main import main
from weft.model.checkpoint.formats import LOADABLE
from weft.model.checkpoint.hub import paths
from weft.parallel.arch.families import FAMILIES
from weft.tools.bench.served import Served

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
KEY = '\n    "'
"""Beginning of a line with a key of a dict, in a module."""
EXAMPLES = dict(re.findall(r"^\| `weft ([a-z-]+)` \| .* \| `weft ([^`]+)` \|$", README, re.M))
"""Command -> the words of its example."""


def test_formats_and_families_are_those_of_the_registries() -> None:
    assert "](docs/reference/models.md)" in README
    page = (ROOT / "docs" / "reference" / "models.md").read_text()
    assert all(f"| `{name}` |" in page for name in (*LOADABLE, *FAMILIES))


def test_every_command_has_an_example() -> None:
    assert list(EXAMPLES) == [command.name for command in COMMANDS]
    assert all(words.split()[0] == name for name, words in EXAMPLES.items())


def test_its_counts_are_those_of_the_tests() -> None:
    faults = (ROOT / "tests/equivalence/test_injected_faults.py").read_text().split("FAULTS:")[1].split("\n}")[0]
    layouts = (ROOT / "tests/model/models/test_smollm2.py").read_text().split("\nLAYOUTS: ")[1].split("\n}")[0]
    words = {10: "ten", 11: "eleven", 12: "twelve", 13: "thirteen", 14: "fourteen"}
    assert f"each of {words[len(re.findall(r'^    [a-z_]+: ', faults, re.M))]} injected faults" in README
    exact = (ROOT / "tests/equivalence/test_exact_layouts.py").read_text()
    assert "== 1332" in exact and "1,332" in README
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert f"under {words[layouts.count(KEY)]} layouts" in page


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`weft explain` of the embedded model's sizes under the layout of the README, the same on any CPU."""
    return explain_words(tmp_path_factory.mktemp("small"))


def test_the_page_of_layouts_shows_what_explain_prints(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small) == 0
    printed = iter(line.rstrip() for line in capsys.readouterr().out.splitlines())
    page = (ROOT / "docs" / "layouts.md").read_text()
    fences = re.findall(r"^```([^\n]*)\n(.*?)^```$", page, re.S | re.M)
    shown = next(block for info, block in fences if not info and "boundary " in block)
    for line in shown.splitlines():
        assert line in printed, f"docs/layouts.md shows, but explain does not print: {line!r}"


def hosted(model: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.support.tiny_embedded", str(model))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of the embedded one; the working directory has the layouts."""
    model = write_tiny_chat(tmp_path / "tiny")
    monkeypatch.setattr(paths, "embedded_model", lambda say: model)
    monkeypatch.setattr(bench, "PROGRAM", hosted(model))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "layouts").symlink_to(ROOT / "layouts")
    monkeypatch.chdir(tmp_path)
    return model


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in ("serve", "probe")])
def test_examples_run(name: str, tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(EXAMPLES[name])) in ((0, 3) if name == "verify" else (0,)), capfd.readouterr().err
    assert capfd.readouterr().out.strip()


def test_the_server_answers_the_request(tiny: Path) -> None:
    """The examples of `weft serve` and `weft probe`, on any port, and the request of the first lines."""
    curl = next(line for line in README.splitlines() if line.startswith("curl "))
    with Served(hosted(tiny), [*shlex.split(EXAMPLES["serve"]), "--port", "0"]) as served:
        url = served.wait_ready()
        assert main(shlex.split(EXAMPLES["probe"].replace("http://127.0.0.1:8000", url))) == 0
        words = shlex.split(curl.replace("http://127.0.0.1:8000", url))
        done = subprocess.run([*words, "-s", "-m", "120"], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.startswith("data: {") and done.stdout.rstrip().endswith("data: [DONE]")


def test_the_snippet_runs(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)  # as a person would run it
    assert capsys.readouterr().out.count("\n") >= 2
    close = getattr(names["llm"], "close")  # noqa: B009  (the snippet's own object)
    close()
