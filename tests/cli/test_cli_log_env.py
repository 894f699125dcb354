"""The log of a process and the environment variables."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from weft.base import env
from weft.base.errors import ConfigError
from weft.base.log import configure, get_logger


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger("weft")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def test_a_line_names_level_and_process(capsys: pytest.CaptureFixture[str]) -> None:
    configure("rank 3", "info")
    get_logger("weft.test").info("loaded %d", 4)
    get_logger("weft.test").debug("not shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" I rank 3: loaded 4")


def test_configured_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="debug")
    configure(level="warning")
    get_logger("weft.x").warning("careful")
    get_logger("weft.x").info("not shown")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_level_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_LOG", "error")
    configure()
    assert logging.getLogger("weft").level == logging.ERROR
    monkeypatch.setenv("WEFT_LOG", "loud")
    with pytest.raises(ConfigError, match="WEFT_LOG loud: legal: debug, info, warning, error"):
        configure()


@pytest.mark.parametrize(("value", "wanted"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_debug(value: str, wanted: bool) -> None:
    assert env.debug({"WEFT_DEBUG": value}) is wanted
    assert env.debug({}) is False
