"""A server of two replicas, one of which dies: the other has no error and loses nothing. The ranks have no torch."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.test_faults_of_server import LONG, Server, serving
from tests.support.fakes.fake_rank import POISON
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import PATIENCE_S, until, wait_gone

TWO = "replicas=2"
CLOSED = '"code":"request_quarantined"'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


@contextmanager
def two_replicas(model: Path, behaviour: str, *limits: str) -> Iterator[Server]:
    with serving(model, behaviour, TWO, *limits) as server:
        until(lambda: states(server) == ["ready", "ready"])
        yield server


def statuses(body: dict[str, Any]) -> list[str]:
    return [replica["status"] for replica in body["replicas"]]


def states(server: Server) -> list[str]:
    return statuses(server.ready())


def restarts(server: Server) -> list[int]:
    return [replica["restarts"] for replica in server.ready()["replicas"]]


def pids(server: Server, replica: int) -> list[int]:
    return [rank["pid"] for rank in server.ready()["ranks"] if rank["coordinates"]["replica"] == replica]


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum over the series that have these labels."""
    found = 0.0
    for line in server.http.get("/metrics").text.splitlines():
        if line.startswith((name + "{", name + " ")) and all(
            f'{key}="{value}"' in line for key, value in labels.items()
        ):
            found += float(line.split()[-1])
    return found


def running(server: Server, replica: int) -> float:
    """Outputs in a slot of the replica, whose two attention groups have labels of their own."""
    return sum(metric(server, "vllm:num_requests_running", engine=str(2 * replica + group)) for group in range(2))


class Streams:
    """Requests in threads of their own; `stream`: read as events."""

    def __init__(self, server: Server, pool: ThreadPoolExecutor) -> None:
        self._server, self._pool = server, pool
        self.begun: set[str] = set()
        """Prompts of those of which something has come."""

    def send(self, prompt: object, *, stream: bool = True, tokens: int = 100) -> Future[tuple[int, list[str]]]:
        """(status, lines) once it has ended, in whatever way."""
        return self._pool.submit(self._run, LONG | {"prompt": prompt, "max_tokens": tokens, "stream": stream})

    def _run(self, body: dict[str, Any]) -> tuple[int, list[str]]:
        lines: list[str] = []
        with httpx.Client(base_url=self._server.http.base_url, timeout=PATIENCE_S) as http:
            try:
                with http.stream("POST", "/v1/completions", json=body) as response:
                    for line in response.iter_lines():
                        lines += [line] if line else []
                        self.begun.add(str(body["prompt"]))
            except httpx.RemoteProtocolError:
                lines.append("cut")
        return response.status_code, lines


def test_a_dead_replica_does_not_touch_the_other(model: Path) -> None:
    """Row 3: no error and nothing lost at the other; reported, restarted alone, and it takes requests again."""
    with two_replicas(model, "slow-good") as server, ThreadPoolExecutor(16) as pool:
        streams = Streams(server, pool)
        sent = [streams.send(f"number {number}") for number in range(8)]
        until(lambda: running(server, 0) == running(server, 1) == 4 and len(streams.begun) == 8)
        stays, victims = pids(server, 0), pids(server, 1)
        os.kill(victims[1], signal.SIGKILL)
        until(lambda: (body := server.ready())["status"] == "degraded" and statuses(body) == ["ready", "restarting"])
        meanwhile = streams.send("meanwhile", stream=False, tokens=20)
        assert server.http.get("/ready").status_code == 200
        ended = [answer.result(PATIENCE_S) for answer in sent]
        whole = [lines for _, lines in ended if lines[-1] == "data: [DONE]"]
        cut = [lines for _, lines in ended if lines[-1] == "cut"]
        assert len(whole) == 4 and all('"finish_reason":"length"' in lines[-2] for lines in whole)
        assert len(cut) == 4 and not any("[DONE]" in line for lines in cut for line in lines)
        for lines in cut:
            assert '"code":"engine_restarted"' in lines[-2] and "the processes of replica 1 died" in lines[-2]
        assert meanwhile.result(PATIENCE_S)[0] == 200
        until(lambda: states(server) == ["ready", "ready"])
        assert restarts(server) == [0, 1] and pids(server, 0) == stays
        assert not set(pids(server, 1)) & set(victims)
        wait_gone(victims)
        again = [streams.send(f"again {number}") for number in range(4)]
        until(lambda: running(server, 0) == running(server, 1) == 2)
        assert all(answer.result(PATIENCE_S)[1][-1] == "data: [DONE]" for answer in again)
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0
        said = rf"rank 3 \(replica 1, dp 1\) pid {victims[1]} was killed by SIGKILL in phase serving"
        assert re.search(said, server.text), server.text
        assert server.text.count("starting the ranks again in") == 1 and "Traceback" not in server.text


def test_a_stopped_rank_holds_up_its_own_replica_alone(model: Path) -> None:
    with (
        two_replicas(model, "slow-replica1-once-stopped", "ranks=1", "step_limit=4") as server,
        ThreadPoolExecutor(4) as pool,
    ):
        streams = Streams(server, pool)
        sent = [streams.send(f"number {number}") for number in range(2)]
        until(lambda: any(answer.done() for answer in sent))
        assert streams.send("meanwhile", tokens=5).result(PATIENCE_S)[1][-1] == "data: [DONE]"
        ended = sorted((answer.result(PATIENCE_S)[1] for answer in sent), key=lambda lines: lines[-1])
        assert [lines[-1] for lines in ended] == ["cut", "data: [DONE]"]
        assert "the processes of replica 1 died" in ended[0][-2]
        until(lambda: states(server) == ["ready", "ready"])
        assert restarts(server) == [0, 1]
        assert re.search(
            r"no answer to step \d+ within 4 s from rank 1; rank 1 \(replica 1\) pid \d+ is suspended", server.text
        )


def test_what_waits_at_a_dead_replica_goes_to_another(model: Path) -> None:
    """Its ranks do not come back here: what was in line is answered all the same, what was in its step waits."""
    with (
        two_replicas(model, "slow-replica1-stuck-restarting", "seqs=1", "ranks=1", "drain_timeout=0.3") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        streams = Streams(server, pool)
        sent = [streams.send(f"number {number}", stream=False) for number in range(2)]
        until(lambda: metric(server, "vllm:num_requests_running") == 2)
        sent += [streams.send(f"number {number}", stream=False, tokens=5) for number in range(2, 6)]
        until(lambda: metric(server, "vllm:num_requests_waiting", engine="1") == 2)
        os.kill(pids(server, 1)[0], signal.SIGSEGV)
        until(lambda: sum(answer.done() for answer in sent) == 5)
        assert [answer.result()[0] for answer in sent if answer.done()] == [200] * 5
        until(lambda: states(server) == ["ready", "restarting"])
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0
        (late,) = [answer for answer in sent if answer.result(PATIENCE_S)[0] != 200]
        assert late.result()[0] == 503, "it was in the step that died, and no other replica was to die of it"


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_kills_is_kept_from_the_other_replica(model: Path, stream: bool) -> None:
    with two_replicas(model, "poison-crash") as server, ThreadPoolExecutor(8) as pool:
        streams = Streams(server, pool)
        poisoned = streams.send([5, POISON, 7], stream=stream, tokens=4)
        status, lines = poisoned.result(PATIENCE_S)
        assert (status, lines[1:]) == ((200, ["cut"]) if stream else (422, []))
        assert CLOSED in lines[0]
        until(lambda: sorted(restarts(server)) == [0, 2] and states(server) == ["ready", "ready"])
        for _ in range(3):
            assert streams.send([5, POISON, 7], tokens=4).result(PATIENCE_S)[0] == 422
        assert sorted(restarts(server)) == [0, 2]
        answers = [streams.send(f"number {number}") for number in range(4)]
        assert all(answer.result(PATIENCE_S)[1][-1] == "data: [DONE]" for answer in answers)


def test_without_any_replica_requests_are_refused_until_one_is_back(model: Path) -> None:
    with two_replicas(model, "late-restarting") as server:
        for replica in range(2):
            os.kill(pids(server, replica)[0], signal.SIGKILL)
        until(lambda: server.http.get("/ready").status_code == 503)
        refused = server.http.post("/v1/completions", json=LONG)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "engine_restarting"
        assert server.http.get("/health").status_code == 200
        until(lambda: server.http.get("/ready").status_code == 200)
        assert server.http.post("/v1/completions", json=LONG).status_code == 200
        until(lambda: states(server) == ["ready", "ready"] and restarts(server) == [1, 1])


def test_without_restarts_the_others_go_on_and_the_last_ends_the_server(model: Path) -> None:
    with two_replicas(model, "slow-good", "restart=0") as server, ThreadPoolExecutor(8) as pool:
        streams = Streams(server, pool)
        sent = [streams.send(f"number {number}", stream=False) for number in range(4)]
        until(lambda: running(server, 0) == running(server, 1) == 2)
        os.kill(pids(server, 0)[1], signal.SIGKILL)
        assert [answer.result(PATIENCE_S)[0] for answer in sent] == [200] * 4, "all run anew, where there are ranks"
        until(lambda: states(server) == ["stopped", "ready"])
        assert server.http.get("/ready").status_code == 200
        assert metric(server, "weft:replica_ready", replica="0") == 0 and metric(server, "weft:ready") == 1
        os.kill(pids(server, 1)[0], signal.SIGKILL)
        assert server.end()[0] == 69
        assert "replica 0 is not started again, the others go on: rank 1 (replica 0, dp 1) pid" in server.text
        assert "ended: rank 2 (replica 1, dp 0) pid" in server.text


def test_a_crash_loop_of_one_replica_leaves_the_others(model: Path) -> None:
    with two_replicas(model, "slow-replica1-killed", "ranks=1") as server, ThreadPoolExecutor(8) as pool:
        streams, whole, cut = Streams(server, pool), 0, 0
        while states(server) != ["ready", "stopped"]:
            until(lambda: states(server)[1] in ("ready", "stopped"))
            ended = [streams.send(f"number {whole + cut + number}", tokens=20) for number in range(2)]
            for _, lines in [answer.result(PATIENCE_S) for answer in ended]:
                whole, cut = whole + (lines[-1] == "data: [DONE]"), cut + (lines[-1] == "cut")
                received = "".join(lines)
                assert (
                    lines[-1] == "data: [DONE]" or "the processes of replica 1 died" in received or CLOSED in received
                )
        assert whole > 0 and cut > 0 and restarts(server) == [0, 4]
        assert streams.send("on").result(PATIENCE_S)[1][-1] == "data: [DONE]"
        assert "replica 1 is not started again, the others go on: the ranks died 5 times within 60 s" in server.text
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0


def test_a_replica_that_dies_in_the_first_start_ends_the_server(model: Path) -> None:
    with serving(model, "replica1-killed-loading", TWO, ready=False) as server:
        assert server.end()[0] == 69
        assert "ended: rank 3 (replica 1, dp 1) pid" in server.text and "in phase load" in server.text


def test_a_replica_that_would_run_something_else_is_not_started_again(model: Path) -> None:
    """As after files or code were replaced under a running server: its answers would not be the others'."""
    with two_replicas(model, "replica1-other-torch-later", "ranks=1") as server:
        os.kill(pids(server, 1)[0], signal.SIGKILL)
        until(lambda: states(server) == ["ready", "stopped"])
        assert server.http.post("/v1/completions", json=LONG).status_code == 200
        assert "the others go on: ranks do not have the same settings" in server.text
        assert re.search(r"torch: rank \d \(replica \d\) has .*, rank 1 \(replica 1\) has 1.0", server.text)
        os.kill(pids(server, 0)[0], signal.SIGKILL)
        until(lambda: restarts(server)[0] == 1 and states(server) == ["ready", "stopped"])


def test_a_drain_lets_the_streams_of_all_replicas_end(model: Path) -> None:
    with two_replicas(model, "slow-good", "ranks=1", "drain_timeout=100") as server, ThreadPoolExecutor(8) as pool:
        streams = Streams(server, pool)
        sent = [streams.send(f"number {number}", tokens=100) for number in range(4)]
        until(lambda: metric(server, "vllm:num_requests_running", engine="0") == 2)
        until(lambda: metric(server, "vllm:num_requests_running", engine="1") == 2)
        ranks = pids(server, 0) + pids(server, 1)
        server.signal(signal.SIGTERM)
        assert all(answer.result(PATIENCE_S)[1][-1] == "data: [DONE]" for answer in sent)
        assert server.end()[0] == 0
        wait_gone(ranks)


def test_a_killed_server_leaves_no_rank_of_any_replica(model: Path) -> None:
    with two_replicas(model, "good") as server:
        ranks = pids(server, 0) + pids(server, 1)
        assert len(set(ranks)) == 4
        server.process.kill()
        wait_gone(ranks)
