"""Signals before there is a server: they end the start, with a word, and leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.frontend.server.http.signals import EndSignals, Stopped

ENDS = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDS)
def test_the_first_ends_the_start_and_the_others_wait(number: signal.Signals) -> None:
    with EndSignals():
        with pytest.raises(Stopped):
            signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_what_came_while_the_loop_was_made_is_told_to_it() -> None:
    taken: list[int] = []
    ended: list[str] = []
    with EndSignals() as signals:
        signals.hold()
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        signals.give_to(lambda number, *_: taken.append(number), ended.append)
    assert taken == [signal.SIGINT, *ENDS] and ended == ["SIGHUP", "SIGTERM"]


def test_a_hangup_that_was_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    taken: list[int] = []
    with EndSignals() as signals:
        signal.raise_signal(signal.SIGHUP)
        signals.hold()
        signals.give_to(lambda number, *_: taken.append(number), lambda _: None)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert taken == [signal.SIGINT, signal.SIGTERM]


ENDING = """
import os, signal, sys
import weft.cli.commands.serve as serve
from weft.cli.main import main

def first(name, number):
    function = getattr(serve, name)
    def also(*args, **kwargs):
        os.kill(os.getpid(), number)
        return function(*args, **kwargs)
    setattr(serve, name, also)

first(sys.argv.pop(1), int(sys.argv.pop(1)))
sys.exit(main())
"""
"""A signal at the moment when a part of the start begins."""


PARTS = ("listen", "opened", "plan_launch", "ServedModel", "run_server", "Replicas")


@pytest.mark.parametrize(
    ("part", "number"),
    [
        pytest.param(part, number, marks=[pytest.mark.long] * ((at + kind) % 2))
        for at, part in enumerate(PARTS)
        for kind, number in enumerate(ENDS)
    ],
)
def test_a_signal_in_the_first_seconds(model_dir: Path, number: signal.Signals, part: str) -> None:
    words = [sys.executable, "-c", ENDING, part, str(int(number)), "serve", str(model_dir), "--port", "0"]
    read, write = os.pipe()  # ranks inherit nothing of it, so its end is the server's
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=(write,)) as run:
        os.close(write)
        out, _ = run.communicate(timeout=240)
    assert os.read(read, 1) == b""
    os.close(read)
    assert run.returncode == 0, out
    assert out.splitlines()[-1] == "stopped" and "Traceback" not in out and "spawn" not in out
    assert ("stopping; idle" in out) == (part == "Replicas")


IMPORTING = """
import os, sys
from weft.cli import dispatch as commands
from weft.cli.main import main

number, importing = int(sys.argv.pop(1)), commands.import_module
def import_module(name):
    os.kill(os.getpid(), number)
    return importing(name)
commands.import_module = import_module
sys.exit(main())
"""


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_while_a_server_s_modules_are_imported(number: signal.Signals) -> None:
    words = [sys.executable, "-c", IMPORTING, str(int(number)), "serve", "--port", "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
