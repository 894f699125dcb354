"""Faults between hosts: how soon they are seen, what is said of them, and that the engine is ready again."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.hosts.cluster import Cluster, answer
from tests.support.namespaces import Command
from tests.support.waiting import until, wait_gone

SLACK_S = 16.0
"""What a machine with much else to do may add to a bound."""


@contextmanager
def load(cluster: Cluster) -> Iterator[list[tuple[int, str]]]:
    """Requests without end, one after the other; status and text of each."""
    found: list[tuple[int, str]] = []
    over = threading.Event()

    def ask() -> None:
        with cluster.client() as client:
            while not over.is_set():
                try:
                    response = answer(client, tokens=48)
                    found.append((response.status_code, response.text))
                except httpx.HTTPError as error:
                    found.append((0, repr(error)))
                time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join(60)


def said_after(command: Command, pattern: str, began: float, bound_s: float, start: int = 0) -> re.Match[str]:
    """A line that comes within the bound, after `start` characters."""
    found = command.says(pattern, 60, start)
    assert time.monotonic() - began < bound_s + SLACK_S, f"{time.monotonic() - began:.1f} s:\n{command.text}"
    return found


def goes_on(answers: list[tuple[int, str]]) -> None:
    """Until two more requests were answered."""
    before = len(answers)
    until(lambda: [status for status, _ in answers[before:]].count(200) > 1)


def ready_again(cluster: Cluster, command: Command, times: int = 1, bound_s: float = 15.0) -> None:
    began = time.monotonic()
    until(lambda: command.text.count("ready again") >= times, command.text, 120)
    assert time.monotonic() - began < 2 * bound_s
    with cluster.client() as client:
        assert answer(client).status_code == 200


@pytest.fixture
def served(cluster: Cluster) -> Iterator[tuple[Command, Command]]:
    server, agent = cluster.serve("--tp", "2", "--step-limit", "4", "--join-limit", "60")
    yield server, agent
    texts = server.text
    for line in texts.splitlines():
        assert "Traceback" not in line, texts


def test_ranks_and_agents_that_end(cluster: Cluster, served: tuple[Command, Command]) -> None:
    server, agent = served
    with load(cluster) as answers:
        until(lambda: len(answers) > 2)
        (rank,) = agent.ranks()
        began = time.monotonic()
        os.kill(rank, signal.SIGKILL)
        said_after(
            server,
            r"rank 1 \(tp 1\) on host 1 \(node1, 10.77.0.2\) pid \d+ was killed by SIGKILL in phase serving,"
            r" (in|after) step \d+; rank 1 has (left|been for [\d.]+ s in) \w+ over \(0, 1\), call \d+",
            began,
            1.0,
        )
        ready_again(cluster, server)

        began = time.monotonic()
        ranks = agent.ranks()
        agent.send(signal.SIGKILL)
        said_after(server, r"host 1 \(node1, 10.77.0.2\) is lost: the connection was closed", began, 1.0)
        wait_gone(ranks)
        lost = "host 1 (node1, 10.77.0.2) is lost"
        with cluster.client() as client:
            until(lambda: (page := client.get("/ready")).status_code == 503 and lost in page.json()["error"]["message"])
        other = cluster.hosts[0].core
        words = cluster.words(1, "--tp", "2", "--step-limit", "4")
        again = cluster.hosts[1].start("weft", ["serve", *words], core=other)
        ready_again(cluster, server, 2)
        with cluster.client() as client:
            assert [rank["cpus"] for rank in client.get("/ready").json()["ranks"]] == [[other]] * 2
        (rank,) = again.ranks()
        assert os.sched_getaffinity(rank) == {other}
    # 422: a request that was there at both deaths
    assert {status for status, _ in answers} <= {200, 422, 503}


def lose_links(cluster: Cluster, server: Command, agent: Command, *said: str) -> None:
    """Cuts the link to host 1, then drops its frames. Each time the host is named in 3 s, then lines like `said`."""
    far = cluster.hosts[1]
    with load(cluster) as answers:
        for times, fault in enumerate((far.cut, far.drop), 1):
            goes_on(answers)
            before, began = len(server.text), time.monotonic()
            fault()
            for line in (r"host 1 \(node1, 10.77.0.2\) is lost: the connection is lost", *said):
                said_after(server, line, began, 3.0, before)
            until(lambda: not agent.ranks(), "the lost host's ranks go on")
            assert time.monotonic() - began < 4.0 + SLACK_S
            far.mend()
            ready_again(cluster, server, times)
    assert {status for status, _ in answers} <= {200, 422, 503}


def test_a_link_that_is_cut_and_frames_that_are_dropped(cluster: Cluster, served: tuple[Command, Command]) -> None:
    lose_links(cluster, *served, r"rank 0 has been for [\d.]+ s in \w+ over \(0, 1\)|starting")


def test_a_rank_that_is_stopped(cluster: Cluster, served: tuple[Command, Command]) -> None:
    server, agent = served
    with load(cluster) as answers:
        until(lambda: len(answers) > 2)
        (rank,) = agent.ranks()
        began = time.monotonic()
        os.kill(rank, signal.SIGSTOP)
        said_after(
            server, r"rank 1 \(tp 1\) on host 1 \(node1, 10.77.0.2\) pid \d+ is suspended \(SIGSTOP\)", began, 4.0 + 2.0
        )
        ready_again(cluster, server)
    assert {status for status, _ in answers} <= {200, 503}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            "collective:1:400:skip-collective",
            r"rank 1 \(tp 1\) on host 1 .* has not come to \w+ of \w+\.\w+ over \(0, 1\), call \d+|"
            r"disagree over \(0, 1\): rank (0|1): call \d+, \w+ .*; rank (0|1): call \d+, \w+ ",
        ),
        pytest.param(
            "collective:0:400:delay=60,step:1:12:stop", r"rank 1 .* is suspended \(SIGSTOP\)", marks=pytest.mark.long
        ),
    ],
    ids=["skipped", "two reasons"],
)
def test_ranks_that_are_late_are_named_with_their_call(cluster: Cluster, fault: str, said: str) -> None:
    words = ("--tp", "2", "--step-limit", "4", "--enforce-eager")  # collectives of programs pass no point of a fault
    server, _ = cluster.serve(*words, WEFT_TEST_FAULTS="1", WEFT_FAULT=fault)
    with load(cluster):
        found = server.says(".*(no answer to step|disagree).*", 60).group()
        assert re.search(said, found), found
        ready_again(cluster, server)


def test_a_host_that_does_not_come_back(cluster: Cluster) -> None:
    server, _ = cluster.serve("--tp", "2", "--join-limit", "6")
    began = time.monotonic()
    cluster.hosts[1].die()
    said_after(server, r"host 1 \(node1, 10.77.0.2\) is lost", began, 3.0)
    assert server.end(90) == 69
    assert "and has not come back; waited 6 s (--join-limit)" in server.text


def test_a_head_that_is_killed(cluster: Cluster, served: tuple[Command, Command]) -> None:
    server, agent = served
    ranks = agent.ranks()
    began = time.monotonic()
    server.send(signal.SIGKILL)
    wait_gone(ranks)
    assert time.monotonic() - began < 1.0 + SLACK_S
    agent.says("host 0 is lost; its ranks are ended, waiting for it at 10.77.0.1:25000")
    (cluster.hosts[0].folder / "sock").unlink(missing_ok=True)
    again = cluster.hosts[0].weft("serve", *cluster.words(0, "--tp", "2", "--step-limit", "4"))
    again.says("^ready on", 240)
    with cluster.client() as client:
        assert answer(client).status_code == 200
    again.send(signal.SIGTERM)
    assert (again.end(), agent.end()) == (0, 0)
