"""A flag of an earlier version names the flag that took its place, and ends the command as a wrong flag does."""

from __future__ import annotations

import pytest

from weft.cli.main import main
from weft.cli.renamed_flags import RENAMED_FLAGS, refuse_renamed_flags
from weft.options import settings_of
from weft.settings import EngineConfig


@pytest.mark.parametrize(("old", "new"), RENAMED_FLAGS.items())
def test_an_old_flag_names_the_new_one(old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "embedded", old]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("weft explain: ")
    assert f"{old} is {new} now: give {new}" in captured.err


def test_new_names_are_flags_and_old_ones_are_not() -> None:
    flags = {flag for setting in settings_of(EngineConfig) for flag in setting.option.flags}
    for old, new in RENAMED_FLAGS.items():
        assert new.replace("--no-", "--") in flags and old.replace("--no-", "--") not in flags


def test_words_that_are_no_flags_are_left_alone() -> None:
    refuse_renamed_flags(["text", "--prune-argmax", "--", "--screen-logits"])
