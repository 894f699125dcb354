"""`weft serve` under limits of open files: refused where nothing could run; else no client takes what ranks need."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import PATIENCE_S, listening_port, until, wait_gone
from weft.base.machine.fd_limits import Needs

ROOT = Path(__file__).resolve().parents[2]
ASK = {"prompt": "x", "max_tokens": 8, "ignore_eos": True}
CLIENTS = 100
"""More than the limit has room for."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


def limited(limit: str, *words: str) -> list[str]:
    """`weft serve` under `ulimit LIMIT`."""
    return ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", sys.executable, "-m", "weft.cli.main", "serve", *words]


@contextmanager
def serving(log: Path, command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)
    try:
        until(lambda: listening_port(process.pid), "nobody listens")
        url = f"http://127.0.0.1:{listening_port(process.pid)}"
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
            until(lambda: is_ready(http), "not ready", 120)
            yield process, http
    finally:
        process.kill()
        process.wait()


def is_ready(http: httpx.Client, restarts: int = 0) -> bool:
    try:
        answer = http.get("/ready")
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and answer.json()["restarts"] == restarts


def held(port: int, stack: ExitStack) -> int:
    """How many of `CLIENTS` clients are answered; these keep their connections."""
    clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) for _ in range(CLIENTS)]
    taken = 0
    for client in clients:
        try:
            client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            taken += client.recv(100).startswith(b"HTTP/1.1 200 ")
        except (ConnectionResetError, BrokenPipeError):
            continue  # refused before it had asked
    return taken


def test_a_rank_that_dies_while_clients_hold_all_connections_is_replaced(model: Path, tmp_path: Path) -> None:
    log, limit = tmp_path / "log", Needs(ranks=2).least + 20
    most = limit - Needs(ranks=2).server
    words = limited(f"-n {limit}", str(model), "--port", "0", "--tp", "2")
    with serving(log, words) as (process, http), ExitStack() as stack:
        assert held(http.base_url.port or 0, stack) == most - 1, "one is this client's own"
        pids = [rank["pid"] for rank in http.get("/ready").json()["ranks"]]
        os.kill(pids[1], signal.SIGKILL)
        wait_gone(pids)
        until(lambda: is_ready(http, restarts=1), "not ready again", 120)
        assert http.post("/v1/completions", json=ASK).status_code == 200
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    text = log.read_text()
    assert f"at most {most} connections, not 4096: open files are limited to {limit}" in text
    assert "was killed by SIGKILL" in text and "ready again" in text
    assert "Too many open files" not in text and "Traceback" not in text


def test_a_soft_limit_is_raised_for_the_server_and_its_ranks(model: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", limited("-Sn 40", str(model), "--port", "0")) as (process, http):
        pids = [process.pid, *(rank["pid"] for rank in http.get("/ready").json()["ranks"])]
        for pid in pids:
            lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
            (words,) = (line.split() for line in lines if line.startswith("Max open files"))
            assert words[3] == words[4] != "40"


@pytest.mark.parametrize(
    "limit", [6, *(pytest.param(each, marks=pytest.mark.long) for each in (9, 12, 16, 20, 25)), Needs().least - 1]
)
def test_too_low_a_limit_is_refused_at_once(model: Path, limit: int) -> None:
    code, text = refused(limited(f"-n {limit}", str(model), "--port", "0"))
    assert code == 78
    assert (
        f"weft serve: open files are limited to {limit} (ulimit -n)" in text and f"ulimit -n {Needs().least};" in text
    )


def test_a_limit_that_is_too_low_for_these_ranks_is_refused_before_they_start(model: Path) -> None:
    code, text = refused(limited(f"-n {Needs().least}", str(model), "--port", "0", "--tp", "2"))
    assert code == 78 and f"2 ranks needs at least {Needs(ranks=2).least}" in text and "spawn" not in text


def test_connections_that_cannot_be_had_are_refused(model: Path) -> None:
    code, text = refused(limited("-n 200", str(model), "--port", "0", "--max-connections", "1000"))
    assert code == 78 and "--max-connections 1000: open files are limited to 200 (ulimit -n)" in text
    assert f"legal: 1 to {200 - Needs().server}, or a limit of at least {1000 + Needs().server}" in text


def refused(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False, cwd=ROOT
    )
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode, done.stdout
