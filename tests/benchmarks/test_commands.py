"""Commands of `benchmarks/`: what they take is checked before anything is measured, and a mistake is one line."""

from __future__ import annotations

import argparse
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common.about import command
from benchmarks.common.command import at_least, even, positive, result_file, run_command, whole
from weft.base.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "benchmarks" / "server").glob("*.py")]


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", ""])
def test_whole_numbers(text: str) -> None:
    assert whole("1") == 1 and at_least(2)("2") == 2
    with pytest.raises(argparse.ArgumentTypeError, match="1 or more"):
        whole(text)


@pytest.mark.parametrize(("text", "message"), [("0", "2 or more"), ("x", "2 or more"), ("3", r"even number.*; 4\?")])
def test_even_numbers(text: str, message: str) -> None:
    assert even("2") == 2
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        even(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "inf"])
def test_positive_numbers(text: str) -> None:
    assert positive("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match="above 0"):
        positive(text)


def test_a_result_has_a_place(tmp_path: Path) -> None:
    assert result_file(str(tmp_path / "x.json")) == tmp_path / "x.json"
    for wrong in (tmp_path / "none" / "x.json", tmp_path):
        with pytest.raises(argparse.ArgumentTypeError, match="directory"):
            result_file(str(wrong))


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise ConfigError("tp 3: legal: 1, 2")

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 78
    assert capsys.readouterr().err.endswith(": tp 3: legal: 1, 2\n")


ENDED = """
import signal, sys, time
from contextlib import contextmanager
from benchmarks.common.command import run_command

@contextmanager
def started():
    try:
        yield
    finally:
        print("ended what it had started", flush=True)

def main():
    with started():
        print("runs", flush=True)
        time.sleep(600)

if "ignored" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
run_command(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_what_it_has_started(number: signal.Signals) -> None:
    words = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n{ENDED}"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdout.readline() == "runs\n"
        running.send_signal(number)
        said, complaint = running.communicate(timeout=120)
    assert said == "ended what it had started\n"
    assert complaint == f"-c: {number.name}\n"
    assert running.returncode == 128 + number


def test_a_hangup_that_is_ignored_ends_nothing() -> None:
    words = [sys.executable, "-c", ENDED, "ignored"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdout.readline() == "runs\n"
        running.send_signal(signal.SIGHUP)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=120)
    assert running.returncode == 128 + signal.SIGTERM


def test_every_command_ends_so() -> None:
    assert len(COMMANDS) > 15
    for path in COMMANDS:
        assert "    run_command(main)\n" in path.read_text(), path.name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmarks/quantization_speed.py", "--rounds", "none"], "1 or more"),
        (["benchmarks/decode_bound.py", "--activations", "int8"], "give --quantization int8"),
        (["benchmarks/comm_latency.py", "--worlds", "1"], "2 or more"),
        (["benchmarks/quantization.py", "--out", "none/x.json"], "no directory none"),
        (["benchmarks/long_prompt.py", "--model", "/none"], "/none"),
        (["-m", "benchmarks.peers.main", "--show", "--out", "none.json"], "not a file of results"),
    ],
)
def test_what_cannot_be_measured_is_said(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `python WORDS` runs it, but for an interpreter that would have to import torch first."""
    named = words[0] == "-m"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks")] * (not named) + sys.path)
    monkeypatch.setattr(sys, "argv", words[named:])
    with pytest.raises(SystemExit) as ended:
        (runpy.run_module if named else runpy.run_path)(words[named], run_name="__main__")
    assert ended.value.code and said in capsys.readouterr().err


def test_a_command_is_a_program() -> None:
    words = [sys.executable, "benchmarks/decode_bound.py", "--rounds", "0"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode and "1 or more" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(("variant", "before"), [("avx2", "WEFT_NATIVE_ISA=avx2 "), (None, "")])
def test_a_forced_variant_is_part_of_what_was_typed(
    variant: str | None, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEFT_NATIVE_ISA", raising=False)
    if variant is not None:
        monkeypatch.setenv("WEFT_NATIVE_ISA", variant)
    monkeypatch.setattr(sys, "argv", ["x.py", "--kinds", "bf16 in 12", f"{ROOT}/benchmarks/y.json"])
    assert command("run") == f"{before}run --kinds 'bf16 in 12' benchmarks/y.json"
    monkeypatch.setattr(sys, "argv", ["x.py"])
    assert command("run") == f"{before}run"
