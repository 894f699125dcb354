"""A pipeline stage a host: ranks that end or are stopped and lost links are seen as soon as with other layouts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.hosts.cluster import PROMPTS, Cluster, answer
from tests.hosts.test_lost_hosts import goes_on, load, lose_links, ready_again, said_after
from tests.support.namespaces import Command

pytestmark = pytest.mark.long
STAGES = ("--pp", "2", "--step-limit", "4", "--join-limit", "60")
SECOND = r"rank 1 \(stage 1\) on host 1 \(node1, 10.77.0.2\)"


@pytest.fixture
def served(cluster: Cluster) -> Iterator[list[Command]]:
    commands = cluster.serve(*STAGES)
    yield commands
    assert "Traceback" not in commands[0].text


def test_ranks_that_are_killed(cluster: Cluster, served: list[Command]) -> None:
    server, agent = served
    said = [r"rank 0 \(stage 0\)( on host 0 \(node0, 10.77.0.1\))?", SECOND]
    with load(cluster) as answers:
        for times, (command, rank) in enumerate(zip((agent, server), (1, 0), strict=True), 1):
            goes_on(answers)
            before, began = len(server.text), time.monotonic()
            os.kill(command.ranks()[0], signal.SIGKILL)
            said_after(server, said[rank] + r" pid \d+ was killed by SIGKILL in phase serving", began, 1.0, before)
            ready_again(cluster, server, times)
    assert {status for status, _ in answers} <= {200, 422, 503}


@pytest.mark.parametrize("stage", [0, 1])
def test_a_rank_that_is_stopped(cluster: Cluster, served: list[Command], stage: int) -> None:
    server = served[0]
    with load(cluster) as answers:
        goes_on(answers)
        began = time.monotonic()
        os.kill(served[stage].ranks()[0], signal.SIGSTOP)
        said_after(server, rf"rank {stage} \(stage {stage}\).* pid \d+ is suspended \(SIGSTOP\)", began, 4.0 + 2.0)
        ready_again(cluster, server)
    assert {status for status, _ in answers} <= {200, 503}


def test_a_link_that_is_cut_and_frames_that_are_dropped(cluster: Cluster, served: list[Command]) -> None:
    server, agent = served
    lose_links(cluster, server, agent)


def test_stages_of_two_ranks_agree_with_one_rank(cluster: Cluster) -> None:
    layout = ("--pp", "2", "--attn-tp-size", "2", "--dtype", "float32")
    commands = [host.weft("verify", *cluster.meeting(host.number, *layout)) for host in cluster.hosts]
    assert [command.end(240) for command in commands] == [0, 0], commands[0].text
    assert "agrees" in commands[0].text


def test_gloo_carries_messages_of_stages_too(cluster: Cluster, of_one_rank: list[str]) -> None:
    server, agent = cluster.serve("--pp", "2", "--comm", "gloo")
    with cluster.client() as client:
        assert [answer(client, prompt).json()["choices"][0]["text"] for prompt in PROMPTS] == of_one_rank
    server.send(signal.SIGTERM)
    assert (server.end(), agent.end()) == (0, 0)
