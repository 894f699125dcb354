"""A server whose ranks die, and one that gets SIGTERM: streams, restarts, readiness, exits, each within its bound.

The ranks have no torch; supervisor, engine and HTTP are the real ones.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fakes.fake_rank import POISON
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import PATIENCE_S, listening_port, until, wait_gone

ROOT = Path(__file__).resolve().parents[2]
LONG: dict[str, Any] = {"prompt": "x", "max_tokens": 200, "ignore_eos": True}
SOON_S = 20.0
"""At once, on a machine with much else to do: well before the limits of a step and of a drain, 30 s, would end it."""


@pytest.fixture(autouse=True)
def hangup_is_not_ignored() -> Iterator[None]:
    """Though these tests be run by nohup: servers inherit it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


@dataclass
class Server:
    """A process, what it printed, and a client."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{first.split()[-1]}", timeout=PATIENCE_S)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def ready(self) -> dict[str, Any]:
        body: dict[str, Any] = self.http.get("/ready").json()
        return body

    def wait_ready(self, restarts: int = 0) -> None:
        """Until it is, after this many restarts."""
        until(lambda: (body := self.ready())["status"] == "ready" and body["restarts"] == restarts, self.text)

    def ranks(self) -> list[int]:
        return [rank["pid"] for rank in self.ready()["ranks"]]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, float]:
        """Exit code, and seconds until it came."""
        began = time.monotonic()
        code = self.process.wait(PATIENCE_S)
        took = time.monotonic() - began
        self._reader.join(PATIENCE_S)
        return code, took

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        self.http.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def serving(model: Path, behaviour: str, *limits: str, ready: bool = True) -> Iterator[Server]:
    command = [sys.executable, "-m", "tests.support.fakes.fake_server", str(model), behaviour, *limits]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    server = Server(process)
    try:
        if ready:
            server.wait_ready()
        yield server
    finally:
        server.close()


def cut_stream(server: Server, after_first: Callable[[], object], body: dict[str, Any] = LONG) -> tuple[str, float]:
    """A stream's last frame, and how long after `after_first` it came; the stream must not look whole."""
    lines: list[str] = []
    with server.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        with pytest.raises(httpx.RemoteProtocolError):
            for line in response.iter_lines():
                lines.append(line)
                if len(lines) == 2:
                    after_first()
                    began = time.monotonic()
        took = time.monotonic() - began
    frames = [line for line in lines if line]
    assert "[DONE]" not in frames[-1] and '"error"' in frames[-1]
    return frames[-1], took


def ledger(server: Server) -> dict[str, float]:
    """What became of the requests, by the server's own count."""
    lines = re.findall(r"^weft:requests_(\w+)_total(?:\{.*\})? (\S+)$", server.http.get("/metrics").text, re.M)
    found = dict.fromkeys(("accepted", "completed", "failed"), 0.0)
    for name, value in lines:
        found[name] += float(value)
    return found


def test_a_killed_rank_costs_started_streams_only(model: Path) -> None:
    """Rows 1 and 2: detected, reported, restarted, ready again; a request without output so far runs anew."""
    with serving(model, "once-slow") as server, ThreadPoolExecutor(2) as pool:
        whole = pool.submit(server.http.post, "/v1/completions", json=LONG | {"prompt": "whole"})
        until(lambda: in_flight(server) == 1)
        victim = server.ranks()[1]
        frame, took = cut_stream(server, lambda: os.kill(victim, signal.SIGKILL))
        assert '"code":"engine_restarted"' in frame and took <= SOON_S
        server.wait_ready(restarts=1)
        answer = whole.result(PATIENCE_S)
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 200
        assert server.http.post("/v1/completions", json=LONG).status_code == 200
        assert victim not in server.ranks()
        counted = ledger(server)
        assert counted["accepted"] == counted["completed"] + counted["failed"] == 3 and counted["failed"] == 1
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0
        said = rf"rank 1 \(dp 1\) pid {victim} was killed by SIGKILL in phase serving, (in|after) step \d+"
        assert re.search(said, server.text), server.text
        assert server.text.count("starting the ranks again in") == 1 and "Traceback" not in server.text


def test_an_idle_death_is_seen(model: Path) -> None:
    with serving(model, "late-restarting") as server:
        os.kill(server.ranks()[0], signal.SIGKILL)
        until(lambda: server.ready()["status"] == "restarting")
        answer = server.http.post("/v1/completions", json=LONG)
        assert answer.status_code == 503 and answer.headers["x-should-retry"] == "true"
        assert server.http.get("/health").status_code == 200
        server.wait_ready(restarts=1)


def test_a_stopped_rank_ends_the_set_after_the_step_limit(model: Path) -> None:
    with serving(model, "once-stopped", "step_limit=2") as server:
        frame, took = cut_stream(server, lambda: None)
        assert "engine_restarted" in frame and took <= 2 + SOON_S
        server.wait_ready(restarts=1)
        assert "is suspended (SIGSTOP)" in server.text and "rank 1 (dp 1)" in server.text
        assert server.http.post("/v1/completions", json=LONG).status_code == 200


def test_a_request_that_kills_twice_is_refused(model: Path) -> None:
    poison, deaths = {"prompt": [5, POISON, 7], "max_tokens": 4}, 2
    with serving(model, "poison-crash") as server:
        answer = server.http.post("/v1/completions", json=poison)
        assert answer.status_code == 422 and answer.json()["error"]["code"] == "request_quarantined"
        assert answer.headers["x-should-retry"] == "false"
        server.wait_ready(restarts=deaths)
        assert server.http.post("/v1/completions", json=poison).status_code == 422
        ready = server.ready()
        assert ready["restarts"] == deaths
        assert (
            ready["quarantine"]["requests"] == 1 and "all when the server is restarted" in ready["quarantine"]["lifted"]
        )
        assert server.http.post("/v1/completions", json=LONG).status_code == 200


def test_two_kills_from_outside_cost_no_innocent(model: Path) -> None:
    """Six requests in flight, twice: all run again beside each other, and are answered."""
    with serving(model, "slow") as server, ThreadPoolExecutor(8) as pool:
        bodies = [LONG | {"prompt": f"number {number}", "max_tokens": 20} for number in range(6)]
        sent = [pool.submit(server.http.post, "/v1/completions", json=body) for body in bodies]
        until(lambda: in_flight(server) == 6)
        os.kill(server.ranks()[0], signal.SIGKILL)
        server.wait_ready(restarts=1)
        until(lambda: in_flight(server) == 6)
        os.kill(server.ranks()[0], signal.SIGKILL)
        server.wait_ready(restarts=2)
        assert [answer.result(PATIENCE_S).status_code for answer in sent] == [200] * 6
        assert "quarantine" not in server.ready()
        assert [server.http.post("/v1/completions", json=body).status_code for body in bodies] == [200] * 6


def test_the_request_that_kills_is_the_only_one_quarantined(model: Path) -> None:
    with serving(model, "slow-poison-crash") as server, ThreadPoolExecutor(8) as pool:
        bodies = [LONG | {"prompt": f"number {number}", "max_tokens": 20} for number in range(5)]
        sent = [pool.submit(server.http.post, "/v1/completions", json=body) for body in bodies]
        until(lambda: ledger(server)["accepted"] == 5)
        sent.append(pool.submit(server.http.post, "/v1/completions", json=LONG | {"prompt": [5, POISON, 7]}))
        assert [answer.result(PATIENCE_S).status_code for answer in sent] == [200] * 5 + [422]
        assert server.ready()["quarantine"]["requests"] == 1


def in_flight(server: Server) -> int:
    """Outputs in a slot."""
    found = re.findall(r"^vllm:num_requests_running(?:\{.*\})? (\S+)$", server.http.get("/metrics").text, re.M)
    return int(sum(map(float, found)))


def test_a_crash_loop_ends_the_server(model: Path) -> None:
    """A request may see more than one death: it runs again as long as none of its output was sent."""
    numbers = count()
    with serving(model, "killed") as server:

        def ended_after_another() -> bool:
            with suppress(httpx.TransportError):
                server.http.post("/v1/completions", json=LONG | {"prompt": f"number {next(numbers)}"})
            return server.process.poll() is not None

        until(ended_after_another, "the server goes on")
        assert server.end()[0] == 69
        assert server.text.count("starting the ranks again in") == 4
        assert "the ranks died 5 times within 60 s, so they are not started again" in server.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_idle_server_ends_at_once(model: Path, number: signal.Signals) -> None:
    with serving(model, "good") as server:
        pids = server.ranks()
        server.signal(number)
        code, took = server.end()
        assert code == 0 and took <= SOON_S
        wait_gone(pids)


def test_a_drain_lets_streams_end(model: Path) -> None:
    with serving(model, "slow") as server, httpx.Client(base_url=server.http.base_url, timeout=PATIENCE_S) as other:
        body = LONG | {"stream": True, "max_tokens": 60}
        with server.http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            server.signal(signal.SIGTERM)
            until(lambda: other.get("/ready").status_code != 200)
            assert other.get("/ready").json()["status"] == "draining"
            refused = other.post("/v1/completions", json=LONG)
            assert refused.status_code == 503 and refused.headers["connection"] == "close"
            assert refused.json()["error"]["code"] == "server_shutting_down"
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]" and '"finish_reason":"length"' in rest[-2]
        code, took = server.end()
        assert code == 0 and took <= SOON_S


def test_a_terminal_that_is_closed_drains_too(model: Path) -> None:
    with serving(model, "slow", "drain_timeout=0.3") as server:
        frame, _ = cut_stream(server, lambda: server.signal(signal.SIGHUP))
        assert "server_shutting_down" in frame
        assert server.end()[0] == 0


def test_who_was_started_under_nohup_goes_on(model: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as a child inherits it
    try:
        with serving(model, "good") as server:
            server.signal(signal.SIGHUP)
            assert server.http.post("/v1/completions", json=LONG).status_code == 200
            server.signal(signal.SIGTERM)
            assert server.end()[0] == 0 and "SIGHUP" not in server.text
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_drain_has_an_end(model: Path) -> None:
    with serving(model, "slow", "drain_timeout=0.3") as server:
        frame, took = cut_stream(server, lambda: server.signal(signal.SIGTERM))
        assert "server_shutting_down" in frame and took <= 0.3 + SOON_S
        assert server.end()[0] == 0


def test_a_drain_does_not_wait_for_a_stopped_rank(model: Path) -> None:
    with serving(model, "stopped", "drain_timeout=0.3") as server:
        frame, took = cut_stream(server, lambda: server.signal(signal.SIGTERM))
        assert "server_shutting_down" in frame and took <= 0.3 + SOON_S
        assert server.end()[0] == 0


def test_a_second_signal_ends_everything_at_once(model: Path) -> None:
    def twice() -> None:
        server.signal(signal.SIGTERM)
        time.sleep(0.1)
        server.signal(signal.SIGINT)

    with serving(model, "slow") as server:
        pids = server.ranks()
        frame, took = cut_stream(server, twice)
        assert "server_shutting_down" in frame and took <= SOON_S
        code, took = server.end()
        assert code == 0 and took <= SOON_S
        wait_gone(pids)


def test_a_signal_while_loading(model: Path) -> None:
    with serving(model, "stuck-loading", ready=False) as server:
        until(lambda: any(rank["phase"] == "load" for rank in server.ready()["ranks"]))
        response = server.http.get("/ready")
        assert response.status_code == 503 and response.json()["status"] == "starting"
        assert {rank["coordinates"]["dp"] for rank in response.json()["ranks"]} == {0, 1}
        pids = server.ranks()
        server.signal(signal.SIGTERM)
        code, took = server.end()
        assert code == 0 and took <= SOON_S
        wait_gone(pids)


def test_a_signal_between_two_sets_of_ranks(model: Path) -> None:
    with serving(model, "late-restarting") as server:
        os.kill(server.ranks()[0], signal.SIGKILL)
        until(lambda: server.ready()["status"] == "restarting")
        server.signal(signal.SIGTERM)
        code, took = server.end()
        assert code == 0 and took <= SOON_S


def test_a_killed_server_leaves_no_rank(model: Path) -> None:
    """Rows 4 and 5: supervisor and front end are one process; its ranks go with it, and its port is free."""
    with serving(model, "good") as server:
        pids, port = server.ranks(), server.http.base_url.port
        server.process.kill()
        server.process.wait(PATIENCE_S)
        wait_gone(pids)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/health")


def test_ranks_of_a_restart_end_with_a_killed_server_too(model: Path) -> None:
    with serving(model, "good") as server:
        os.kill(server.ranks()[0], signal.SIGKILL)
        server.wait_ready(restarts=1)
        pids = server.ranks()
        server.process.kill()
        wait_gone(pids)


@pytest.mark.parametrize("servers", [4, pytest.param(20, marks=pytest.mark.long)])
def test_many_servers_start_at_once(model: Path, servers: int) -> None:
    """Sockets are bound once and handed over, so that no two take the same port."""
    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(lambda _: starts_and_ends(model), range(servers))) == [0] * servers


def starts_and_ends(model: Path) -> int:
    with serving(model, "good", "ranks=1") as server:
        assert server.http.post("/v1/completions", json=LONG).status_code == 200
        server.signal(signal.SIGTERM)
        return server.end()[0]


def test_a_full_disk_fails_no_request(model: Path) -> None:
    """Everything that the server prints and logs goes to a disk without room, also across a restart."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "weft.cli.main", "serve", str(model), "--port", "0"]
        process = subprocess.Popen(command, stdout=full, stderr=full, cwd=ROOT)
    try:
        until(lambda: listening_port(process.pid), "nobody listens")
        url = f"http://127.0.0.1:{listening_port(process.pid)}"
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
            until(lambda: answers(http), limit_s=120)
            assert http.post("/v1/completions", json=LONG).status_code == 200
            os.kill(http.get("/ready").json()["ranks"][0]["pid"], signal.SIGKILL)
            until(lambda: http.get("/ready").json()["restarts"] == 1 and answers(http))
            assert http.post("/v1/completions", json=LONG).status_code == 200
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/ready").status_code == 200
    except httpx.TransportError:
        return False
