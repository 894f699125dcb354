"""torchrun places weft's agents: two hosts, each with a torchrun of its own, are one engine; weft watches it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import pytest

from tests.hosts.cluster import Cluster, answer
from tests.hosts.test_lost_hosts import said_after
from tests.support.namespaces import Command, Host
from tests.support.waiting import alive, children, command_line, until, wait_gone

SECRET = "correct horse battery staple"
PORT = "29511"


def torchrun(cluster: Cluster, host: Host, *words: str, processes: int = 1) -> Command:
    """On a host, as a person types it; `words`: those of weft serve."""
    given = ["--nnodes", "2", "--nproc-per-node", str(processes), "--node-rank", str(host.number)]
    given += ["--master-addr", cluster.hosts[0].address, "--master-port", PORT, "-m", "weft", "serve"]
    where = ["--uds", str(cluster.hosts[0].folder / "sock"), "--served-model-name", "small"]
    memory = ["--kv-cache-memory", "4MiB", "--join-limit", "60"]
    given += [str(cluster.models[host.number]), *where, *memory, *words]
    return host.start("torch.distributed.run", given, {"WEFT_DIST_SECRET": SECRET, "GLOO_SOCKET_IFNAME": "eth0"})


def agent_of(command: Command) -> int:
    """The pid of weft under a torchrun."""
    until(lambda: children(command.pid))
    return next(pid for pid in children(command.pid) if b"-m\0weft\0serve" in command_line(pid))


def ranks_under(agent: int) -> list[int]:
    return [pid for pid in children(agent) if b"weft.runtime.worker.main" in command_line(pid) and alive(pid)]


def served(cluster: Cluster, words: Sequence[str]) -> list[Command]:
    commands = [torchrun(cluster, host, *words) for host in cluster.hosts]
    commands[0].says("^ready on", 240)
    return commands


def test_two_torchruns_are_one_engine(cluster: Cluster) -> None:
    """The words of the guide. A torchrun that is killed leaves nothing that runs, and its host is lost at once."""
    head, far = served(cluster, ["--attn-dp-size", "2"])
    with cluster.client() as client:
        assert answer(client).status_code == 200
        assert {rank["host"] for rank in client.get("/ready").json()["ranks"]} == {"node0", "node1"}
    agent, began = agent_of(far), time.monotonic()
    ended = [agent, *ranks_under(agent)]
    far.send(signal.SIGKILL)
    said_after(head, r"host 1 \(node1, 10.77.0.2\) is lost: the connection was closed", began, 1.0)
    wait_gone(ended)
    assert SECRET not in head.text + far.text


@pytest.mark.long
def test_ranks_agents_and_links_that_end(cluster: Cluster) -> None:
    """They are seen as soon as without a launcher, and a torchrun that is started again brings its host back."""
    head, far = served(cluster, ["--attn-dp-size", "2", "--step-limit", "4"])
    agent = agent_of(far)
    began, (rank,) = time.monotonic(), ranks_under(agent)
    os.kill(rank, signal.SIGKILL)
    said_after(head, r"rank 1 .* on host 1 \(node1, 10.77.0.2\) pid \d+ was killed by SIGKILL", began, 1.0)
    head.says("^ready again")

    ranks, began, before = ranks_under(agent), time.monotonic(), len(head.text)
    cluster.hosts[1].cut()
    said_after(head, r"host 1 \(node1, 10.77.0.2\) is lost: the connection is lost", began, 3.0, before)
    wait_gone(ranks)
    cluster.hosts[1].mend()
    head.says("^ready again", 120, before)

    ranks, began, before = ranks_under(agent), time.monotonic(), len(head.text)
    os.kill(agent, signal.SIGKILL)
    said_after(head, r"host 1 \(node1, 10.77.0.2\) is lost: the connection was closed", began, 1.0, before)
    wait_gone(ranks)
    assert far.end(90) != 0
    torchrun(cluster, cluster.hosts[1], "--attn-dp-size", "2", "--step-limit", "4")
    head.says("^ready again", 120, before)
    with cluster.client() as client:
        assert answer(client).status_code == 200


@pytest.mark.long
@pytest.mark.parametrize("words", [
    "--world-size 2 --attn-dp-size 2 --nnodes 2 --nprocs-per-node 1 --dist-init-addr 10.77.0.1:25001",
    "--from sglang -- python -m sglang.launch_server --tp 2 --nnodes 2 --node-rank N --dist-init-addr 10.77.0.1:29500",
], ids=["tokenspeed", "sglang"])  # fmt: skip
def test_words_of_other_engines(cluster: Cluster, words: str) -> None:
    commands = [torchrun(cluster, host, *words.replace(" N ", f" {host.number} ").split()) for host in cluster.hosts]
    commands[0].says("^ready on", 240)
    with cluster.client() as client:
        assert answer(client).status_code == 200
