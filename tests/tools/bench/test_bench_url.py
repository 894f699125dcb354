"""`weft bench --url` against a scripted server: times, loads, faults of every kind, output, exit codes, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes.openai_stand_in import StandIn
from tests.support.waiting import PATIENCE_S, until
from weft.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
ALONE = ("bench", "--input-len", "4", "--output-len", "3", "--warmup", "0", "--url")
SHORT = ("--input-len", "4", "--output-len", "3", "--warmup", "1")


def bench(url: str, *words: str) -> int:
    return main(["bench", "--url", url, *SHORT, *words])


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


def test_json_tells_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved = tmp_path / "b.json"
    with StandIn(gap_s=0.005) as server:
        words = ("--json", "--save", str(saved), "--plot", str(saved.with_suffix(".png")))
        code = bench(server.url, "--concurrency", "2", "--num-prompts", "6", *words)
    assert code == 0
    found = document(capsys)
    assert json.loads(saved.read_text()) == found
    assert saved.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert (found["schema"], found["kind"], found["model"], found["layout"]) == ("weft.bench/1", "bench", "small", None)
    assert found["server"] == {"model": "small", "max_model_len": 512, "version": "7.1"}
    assert {"command", "versions", "machine", "git", "workload", "created"} <= set(found)
    (run,) = found["runs"]
    assert (run["concurrency"], run["completed"], run["failed"], run["output_tokens"]) == (2, 6, 0, 18)
    assert (run["input_tokens"], run["cached_tokens"]) == (30, 6)
    # milliseconds: a token that the system held up comes nearer to the next one than the server sent it
    assert run["ttft_ms"]["p50"] > 1 and run["tpot_ms"]["p50"] > 1 and run["itl_ms"]["count"] == 12
    assert run["total_tokens_per_s"] == pytest.approx((30 + 18) / run["duration_s"], rel=1e-3)
    assert len(run["per_request"]["rows"]) == 6
    assert found["medians"][0]["tpot_ms"]["p50"] == run["tpot_ms"]["p50"]


def test_as_many_are_in_flight_as_asked_for() -> None:
    with StandIn(together=3) as server:
        assert main([*ALONE, server.url, "--concurrency", "3", "--num-prompts", "9"]) == 0
        assert server.most == 3


def test_requests_come_at_their_rate_however_slow_the_answers() -> None:
    with StandIn(together=10) as server:
        assert main([*ALONE, server.url, "--request-rate", "inf", "--num-prompts", "10"]) == 0
        assert server.most == 10


def test_bodies_are_what_a_server_expects() -> None:
    with StandIn() as server:
        bench(server.url, "--concurrency", "1", "--num-prompts", "1", "--endpoint", "chat", "--no-ignore-eos")
        bench(server.url, "--concurrency", "1", "--num-prompts", "1", "--temperature", "0.5")
    chat, plain = server.bodies[1], server.bodies[3]
    assert chat["messages"][0]["role"] == "user" and "ignore_eos" not in chat and chat["model"] == "small"
    assert plain["ignore_eos"] is True and plain["temperature"] == 0.5 and plain["max_tokens"] == 3
    assert plain["stream"] is True and plain["stream_options"] == {"include_usage": True}
    assert len(plain["prompt"].split()) == 4


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("busy", "HTTP 429: queue is full"),
        ("no done", "no [DONE]: the stream ended after 3 pieces"),
        ("no finish", "no finish_reason: the stream ended after 3 pieces"),
        ("error frame", "error in the stream: rank 1 was killed by SIGKILL"),
        ("cut", "no finish_reason: the stream ended after 1 pieces"),
        ("not json", "event is no chunk: {oops"),
        ("hang", "timeout: not complete after 2 s"),
    ],
)
def test_a_fault_is_counted_and_shown(capsys: pytest.CaptureFixture[str], fault: str, reason: str) -> None:
    timeout = "2" if fault == "hang" else "60"
    with StandIn(faults={2: fault}) as server:
        code = bench(server.url, "--concurrency", "1", "--num-prompts", "4", "--timeout", timeout)
    out = capsys.readouterr().out
    assert code == 1
    assert f"1 in flight: 1 of 4 failed: {reason}" in out
    assert out.splitlines()[1].split()[3:5] == ["3", "1"], out


def test_a_server_that_dies_between_requests(capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn(faults=dict.fromkeys(range(2, 99), "busy")) as server:
        assert bench(server.url, "--concurrency", "2", "--num-prompts", "9") == 1
    assert "8 of 9 failed: HTTP 429" in capsys.readouterr().out


def test_notes_on_what_could_mislead(capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn(usage=False, short=1) as server:
        assert bench(server.url, "--concurrency", "1", "--num-prompts", "2") == 0
    out = capsys.readouterr().out
    assert "2 answers were shorter than asked for" in out
    assert "the server sent no usage for 2 answers" in out
    with StandIn() as server:
        bench(server.url, "--concurrency", "1", "--num-prompts", "2")
    assert "2 of 10 prompt tokens came from the server's prefix cache" in capsys.readouterr().out


def test_a_warm_up_that_fails_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn(faults={0: "refuse"}) as server:
        assert bench(server.url) == 69
    err = capsys.readouterr().err
    assert "HTTP 400: unknown field 'ignore_eos'; --no-ignore-eos leaves it out" in err


def test_nobody_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as silent:  # it has a port, and does not listen
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert bench(url) == 69
    assert f"no server answers at {url}" in capsys.readouterr().err


def test_a_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with StandIn(key="s3cret") as server:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        assert bench(server.url) == 69
        assert "give the server's key with --api-key" in capsys.readouterr().err
        assert bench(server.url, "--api-key", "s3cret", "--num-prompts", "1", "--concurrency", "1") == 0
        monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
        assert bench(server.url, "--num-prompts", "1", "--concurrency", "1") == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--tp", "2"), 2, "--url: that server has its model and its layout; leave --tp out"),
        (("model", "--max-num-seqs", "3", "--comm", "gloo"), 2, "leave --comm, --max-num-seqs, MODEL out"),
        (("--served-model-name", "big"), 78, "has no model big; legal: small"),
        (("--workload", "flie"), 2, "'flie' is not one of random, shared-prefix, file"),
        (("--request-rate", "0"), 2, "'0' is not a list of numbers above 0, or inf"),
        (("--concurrency", "0"), 78, "concurrency: 0 is out of range; legal: 1 to 4096"),
        (("--save", "/no/such/folder/x.json"), 78, "save /no/such/folder/x.json: not a place for a file"),
        (("--plot", "x.txt"), 78, "legal endings: .png, .svg, .pdf"),
        (("--concurency", "1"), 2, "did you mean --concurrency?"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str) -> None:
    with StandIn() as server:
        assert bench(server.url, *words) == code
        assert said in capsys.readouterr().err
        assert server.bodies == []


def test_without_matplotlib_a_plot_is_refused_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from weft.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with StandIn() as server:
        words = ["bench", "--url", server.url, "--plot", str(tmp_path / "x.svg")]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 78 and 'pip install "weft[pictures]"' in done.stderr and server.bodies == []


def test_ctrl_c_ends_at_once() -> None:
    with StandIn(gap_s=5.0) as server:
        words = [sys.executable, "-m", "weft.cli.main", "bench", "--url", server.url, "--warmup", "0"]
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            until(lambda: server.bodies, "no request came")
            os.kill(process.pid, signal.SIGINT)
            try:
                out, _ = process.communicate(timeout=PATIENCE_S)
            finally:
                process.kill()
    assert process.returncode == 130 and "Traceback" not in out
