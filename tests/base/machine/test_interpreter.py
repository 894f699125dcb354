"""Processes of weft's own modules import nothing from the user's folder, and find weft all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.base.machine import interpreter
from weft.base.machine.interpreter import finding_weft, runs
from weft.cli.hosted import PROGRAM
from weft.frontend.llm import LLM
from weft.tools.bench.served import Served, ServeFailed

SHADOWS = ("random", "inspect", "json", "grp", "numpy")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with files that are called as modules which weft imports."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user ran')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ranks_import_nothing_from_the_working_directory(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = write_tiny_chat(tmp_path_factory.mktemp("model") / "tiny")
    with LLM(model, tp=1) as llm:
        assert llm.generate("Hello")


def test_neither_does_a_server_that_a_benchmark_starts(folder: Path) -> None:
    with Served(PROGRAM, ["serve", "no-such-model"]) as server, pytest.raises(ServeFailed, match="no-such-model"):
        server.wait_ready()


@pytest.mark.parametrize("given", [None, "/elsewhere"])
def test_a_process_finds_weft_where_only_this_one_would(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    root = str(Path(interpreter.__file__).parents[3])
    monkeypatch.setattr(sys, "path", [root, "/usr/lib"])
    others = {"PYTHONPATH": given} if given else {}
    found = finding_weft({"PATH": os.environ["PATH"], **others})
    assert found["PYTHONPATH"].split(os.pathsep) == [root, *([given] if given else [])]
    done = subprocess.run([*runs("weft.cli.main"), "--version"], env=found, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_where_it_finds_weft_anyway_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(interpreter.__file__).parents[3])
    monkeypatch.setattr(sys, "path", ["", root])
    assert finding_weft({"A": "b"}) == {"A": "b"}
