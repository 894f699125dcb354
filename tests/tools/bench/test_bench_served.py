"""`weft bench MODEL` with real servers and ranks: numbers, comparison, and that nothing is left, however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.tiny_chat import CONFIG, write_tiny_chat
from tests.support.waiting import PATIENCE_S, children, listening_port, ranks_of, until, wait_gone
from weft.cli.main import main
from weft.compute.native.step_library import open_library
from weft.parallel.arch.quantization import PANEL_ROWS

ROOT = Path(__file__).resolve().parents[3]
SHORT = ("--input-len", "4", "--output-len", "4", "--num-prompts", "4", "--concurrency", "2", "--warmup", "1")
LONG = ("--input-len", "4", "--output-len", "200", "--num-prompts", "4000", "--concurrency", "2", "--warmup", "0")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("bench") / "tiny")


def bench(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "weft.cli.main", "bench", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(*words: str) -> tuple[int, str, str]:
    with bench(*words) as process:
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
    return process.returncode, out, err


def wait_family(process: subprocess.Popen[str]) -> list[int]:
    """The server and its two ranks, once tokens flow."""
    until(lambda: process.poll() is not None or generating(process.pid), "no server with two ranks that work", 200)
    assert process.poll() is None
    (server,) = children(process.pid)
    return [server, *ranks_of(server)]


def generating(pid: int) -> bool:
    """Whether a server that this process started has made a token."""
    for server in children(pid):
        if (port := listening_port(server)) and len(ranks_of(server)) == 2:
            page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S).text
            return any(float(value) for value in re.findall(r"^vllm:generation_tokens_total\S* (\S+)$", page, re.M))
    return False


def test_a_model(model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "b.json"
    words = ("--tp", "2", "--max-num-seqs", "5", "--no-enable-prefix-caching", "--save", str(saved))
    code, out, err = finish(str(model), *SHORT, *words)
    assert code == 0, err
    assert "2 in flight" in out
    found = json.loads(saved.read_text())
    assert (found["model"], found["layout"]["world"], found["layout"]["dense"]["tp"]) == ("tiny", 2, 2)
    assert (found["engine"]["max_num_seqs"], found["engine"]["enable_prefix_caching"]) == (5, False)
    (run,) = found["runs"]
    assert (run["completed"], run["input_tokens"], run["output_tokens"], run["short_answers"]) == (4, 16, 16, 0)


def test_two_layouts(model: Path, tmp_path: Path) -> None:
    first, other = tmp_path / "first.yaml", tmp_path / "head.yaml"
    first.write_text("attention: {dp: 2}\n")
    other.write_text("attention: {dp: 2}\nlm_head: {tp: 2}\n")
    code, out, err = finish(str(model), *SHORT, "--compare", str(first), str(other), "--repeat", "1", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["schema"], found["kind"]) == ("weft.bench/1", "compare")
    assert [entry["name"] for entry in found["layouts"]] == ["first", "head"]
    assert found["layouts"][1]["differs"] == {"lm_head.tp": [1, 2]}
    panel = 1 if open_library() is None else PANEL_ROWS  # packed matrices have whole panels
    whole, half = (-(-rows // panel) * panel for rows in (CONFIG["vocab_size"], CONFIG["vocab_size"] // 2))
    saved = (whole - half) * CONFIG["hidden_size"] * 4
    assert found["layouts"][1]["saved_per_rank"]["lm_head"] == saved == found["layouts"][1]["saved_per_rank"]["total"]
    rows = found["rows"]
    assert [row["layout"] for row in rows] == ["first", "head"] and rows[0]["tpot_ms"]["change"] == 0
    assert rows[1]["tpot_ms"]["change"] == pytest.approx(
        rows[1]["tpot_ms"]["median"] - rows[0]["tpot_ms"]["median"], abs=1e-3
    )
    prompts = [[row[3] for row in found["runs"][name][0]["per_request"]["rows"]] for name in ("first", "head")]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL]
)
def test_nothing_is_left_when_it_is_ended(model: Path, number: signal.Signals) -> None:
    with bench(str(model), *LONG, "--tp", "2") as process:
        try:
            family = wait_family(process)
            process.send_signal(number)
            _, err = process.communicate(timeout=240)
        finally:
            process.kill()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in err
    wait_gone(family)


def kill_ranks(process: subprocess.Popen[str]) -> None:
    """Kill a rank, and one of those that follow it, until the bench ends.

    One alone may cost nothing: a request of which no token was sent yet is asked again when ranks are back.
    """
    killed = [wait_family(process)[-1]]
    os.kill(killed[0], signal.SIGKILL)
    while process.poll() is None:
        last = [rank for server in children(process.pid) for rank in ranks_of(server)][-1:]
        if last and last[0] not in killed:
            killed += last
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(last[0], signal.SIGKILL)
        time.sleep(0.1)


def test_a_rank_that_dies_is_counted_not_hidden(model: Path) -> None:
    few = ("--input-len", "4", "--output-len", "200", "--num-prompts", "400", "--warmup", "0")
    with bench(str(model), *few, "--tp", "2") as process:
        try:
            kill_ranks(process)
            out, err = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode in (1, 69), err
    assert "failed" in out or "SIGKILL" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--tp", "7"), 78, "legal"),
        (("--max-model-len", "300"), 78, "the model's context is 256 tokens"),
        (("--output-len", "300"), 78, "output_len 300: a prompt of 128 tokens and an answer of 300 are 428 together"),
        (("--tokenizer", "x"), 2, "--tokenizer: only with --url"),
        (("--compare", "a.yaml"), 2, "at least two layouts are needed"),
        (
            ("--compare", "a.yaml", "b.yaml", "--tp", "2"),
            2,
            "--compare: its files are the layouts, of one host each; leave --tp out",
        ),
        (("--compare", "/no/a.yaml", "/no/b.yaml"), 78, "layout file /no/a.yaml"),
    ],
)
def test_what_cannot_be_measured(
    model: Path, words: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, err = main(["bench", str(model), *words]), capsys.readouterr().err
    assert (got, said in err) == (code, True), err


def test_a_model_that_is_not_there() -> None:
    code, _, err = finish("/no/such/model")
    assert code == 65 and "no such file or directory" in err
