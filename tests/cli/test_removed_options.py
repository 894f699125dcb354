"""Options that are gone are refused with what to do instead: as flags, in a layout file, in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import weft
from weft.base.errors import ConfigError, LayoutError
from weft.base.options import REMOVED, removed, settings_of
from weft.base.settings import EngineConfig
from weft.cli.main import main
from weft.cli.removed_flags import refuse_removed_flags
from weft.parallel.layout.serialize import load_given

NAMES = [pytest.param(name, id=name) for name in REMOVED]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["--{}", "--no-{}", "--{}=true"])
def test_a_flag_is_refused_with_what_to_do(name: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "embedded", form.format(name.replace("_", "-"))]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and REMOVED[name] in captured.err


@pytest.mark.parametrize("name", NAMES)
def test_a_key_of_a_layout_file_is_refused(name: str) -> None:
    with pytest.raises(LayoutError) as error:
        load_given(f"attention: {{tp: 1}}\n{name}: true\n")
    assert REMOVED[name] in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_word_of_python_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        given: dict[str, Any] = {name: True}
        weft.LLM(str(tmp_path), **given)
    assert error.value.field == name and REMOVED[name] in str(error.value)


def test_no_option_has_such_a_name() -> None:
    assert not {setting.name for setting in settings_of(EngineConfig)} & {*REMOVED}
    assert removed("--compress-weights") is None and removed("prune") is None


def test_words_that_are_no_flags_are_left_alone() -> None:
    refuse_removed_flags(["prune-argmax", "--", "--prune-argmax"])
