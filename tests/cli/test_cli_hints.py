"""Hints of a plan go to stderr in every command that runs a model."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.base.errors import WeftError
from weft.cli.commands import bench
from weft.cli.main import main
from weft.runtime.launch_plan.plan import LaunchPlan


def enough(*_: object, **__: object) -> NoReturn:
    raise WeftError("far enough")


@pytest.mark.parametrize(
    "words",
    ["generate MODEL Hello --max-tokens 1", "bench MODEL", "bench MODEL --compare LAYOUT LAYOUT"],
)
def test_every_command_that_answers_says_them(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (layout := tmp_path / "one.yaml").write_text("world: 1\n")
    places = {"MODEL": str(write_tiny_chat(tmp_path / "tiny")), "LAYOUT": str(layout)}
    monkeypatch.setattr(LaunchPlan, "hints", lambda plan: [f"hint: of {plan.config.family}"])
    for name in ("in_repetitions", "compare_layouts"):
        monkeypatch.setattr(bench, name, enough)
    code = main([places.get(word, word) for word in words.split()])
    said = capsys.readouterr().err.splitlines()
    assert code == (0 if words.startswith("generate") else WeftError.exit_code), said
    assert sum(line.startswith("hint: of ") for line in said) == 1
