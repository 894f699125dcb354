"""Cores of this machine that a person asks for: explain shows their assignment, and refuses what serve would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from weft.cli.main import main
from weft.runtime.launch_plan import plan as plans
from weft.tools.explain import json_schema

DATA = str(Path(__file__).parent / "data")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "available_cores", lambda: tuple((cpu,) for cpu in range(8)))
    monkeypatch.setattr(plans, "cpu_quota", lambda: None)


def document(capsys: Capture, *words: str) -> Any:
    assert main(["explain", DATA, *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    Draft202012Validator(json_schema()).validate(found)
    return found


@pytest.mark.parametrize(
    ("words", "ranks", "server"),
    [
        ("--cpus 4-6|1 --server-cpus 0,7", [([4, 5, 6], 3), ([1], 1)], [0, 7]),
        ("--threads 3", [([0, 1, 2, 3], 3), ([4, 5, 6, 7], 3)], [3, 7]),
        ("--server-cpus 0-1", [([2, 3, 4], 3), ([5, 6, 7], 3)], [0, 1]),
    ],
)
def test_who_has_which_is_shown(
    words: str, ranks: list[tuple[list[int], int]], server: list[int], capsys: Capture
) -> None:
    found = document(capsys, "--tp", "2", *words.split())
    assert found["cores"]["ranks"] == [{"cpus": cpus, "threads": threads} for cpus, threads in ranks]
    assert found["cores"]["server_cpus"] == server
    assert {**found, "cores": None} == document(capsys, "--tp", "2"), "nothing else depends on it"
    assert main(["explain", DATA, "--tp", "2", *words.split()]) == 0
    shown = capsys.readouterr().out
    assert f"\n  rank 1 (tp 1): {ranks[1][1]} thread" in shown and "HTTP server and scheduler on cpus " in shown


def test_cores_that_nobody_asks_for_are_not_shown(capsys: Capture) -> None:
    assert main(["explain", DATA, "--tp", "2"]) == 0
    assert "cores of this machine" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--tp 2 --cpus 0", "cpus '0': 1 list for 2 ranks; legal: a list for each"),
        ("--cpus 8", "cpus '8': this process may not use 8; legal: 0-7"),
        ("--threads 9", "threads 9: this process may use 8 cores; legal: 1 to 8"),
        ("--server-cpus 0-x", "server_cpus '0-x': '0-x' is no list of CPUs"),
        ("--nodes 2 --tp 2 --threads 1", "threads 1: the layout has 2 nodes, of which this machine is one; leave"),
    ],
)
def test_what_cannot_be_is_refused(words: str, text: str, capsys: Capture) -> None:
    assert main(["explain", DATA, *words.split()]) == 78
    assert capsys.readouterr().err.startswith(f"weft explain: {text}")
