"""Ray places weft's agents: real raylets on hosts of their own. What ends is seen by weft within its own bounds, and
nothing that was started on a host outlives the engine."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.cluster import Cluster, answer
from tests.hosts.test_lost_hosts import said_after
from tests.hosts.test_refused_hosts import other_code
from tests.runtime.launchers.raylets import RayHosts, actors, agents, kill_raylet, of_weft, ranks, ray_folder, the_agent
from tests.support.namespaces import ROOT, hosts, need_namespaces
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import until, wait_gone

DP = ("--nnodes", "2", "--attn-dp-size", "2")


@pytest.fixture
def ray(cluster: Cluster) -> RayHosts:
    return RayHosts(cluster, ray_folder())


@pytest.fixture
def three(tmp_path: Path) -> Iterator[RayHosts]:
    """Three hosts, which find the model at one place."""
    need_namespaces()
    folder = ray_folder()
    with hosts(tmp_path, 3) as found:
        model = write_tiny_chat(tmp_path / "tiny")
        yield RayHosts(Cluster(found, [model] * 3, []), folder)


def test_two_raylets_are_one_engine(ray: RayHosts) -> None:
    """The words of the guide. An actor that is killed takes its agent with it, and is placed again; the end of the
    server ends all that it started."""
    ray.start()
    far = ray.raylets[1]
    server = ray.serve(*DP)
    with ray.cluster.client() as client:
        assert answer(client).status_code == 200
        assert {rank["host"] for rank in client.get("/ready").json()["ranks"]} == {"node0", "node1"}
    agent, (actor,) = the_agent(far), actors(far)
    ended, began = [agent, *ranks(agent)], time.monotonic()
    os.kill(actor, signal.SIGKILL)
    said_after(server, r"host 1 \(node1, 10.77.0.2\) is lost: the connection was closed", began, 1.0)
    wait_gone(ended)
    server.says("^ready again", 120)
    with ray.cluster.client() as client:
        assert answer(client).status_code == 200
    server.send(signal.SIGTERM)
    assert server.end() == 0, server.text
    until(lambda: not any(map(of_weft, ray.cluster.hosts)), "an agent, its actor or a rank outlives the server")


@pytest.mark.long
def test_ranks_agents_and_links_that_end(ray: RayHosts) -> None:
    """Seen as soon as without a launcher; no other node is free, so the host comes back where it was."""
    ray.start()
    far, host = ray.raylets[1], ray.cluster.hosts[1]
    server = ray.serve(*DP, "--step-limit", "4")
    agent = the_agent(far)
    began, (rank,) = time.monotonic(), ranks(agent)
    os.kill(rank, signal.SIGKILL)
    said_after(server, r"rank 1 .* on host 1 \(node1, 10.77.0.2\) pid \d+ was killed by SIGKILL", began, 1.0)
    server.says("^ready again")

    mine, began, before = ranks(agent), time.monotonic(), len(server.text)
    os.kill(agent, signal.SIGKILL)
    said_after(server, r"host 1 \(node1, 10.77.0.2\) is lost: the connection was closed", began, 1.0, before)
    wait_gone(mine)
    server.says("^ready again", 120, before)

    mine, began, before = ranks(the_agent(far)), time.monotonic(), len(server.text)
    host.cut()
    said_after(server, r"host 1 \(node1, 10.77.0.2\) is lost: the connection is lost", began, 3.0, before)
    wait_gone(mine)
    time.sleep(8.0)  # longer than a host is waited for before another node is looked for
    host.mend()
    server.says("^ready again", 120, before)
    with ray.cluster.client() as client:
        assert answer(client).status_code == 200


@pytest.mark.long
def test_a_head_that_is_killed_leaves_nothing(ray: RayHosts) -> None:
    ray.start()
    far = ray.raylets[1]
    server = ray.serve(*DP)
    agent = the_agent(far)
    ended = [agent, *ranks(agent), *actors(far)]
    server.send(signal.SIGKILL)
    wait_gone(ended)


@pytest.mark.long
def test_a_server_outlives_the_cluster(ray: RayHosts) -> None:
    """Ray's library ends the process that it is in a minute after the head of the cluster is gone."""
    ray.start()
    server = ray.serve(*DP)
    for raylet in ray.raylets:
        raylet.send(signal.SIGTERM)  # ends all of Ray's on that host
        raylet.end()
    server.says("the process that speaks to Ray has ended", 150)
    assert server.process.poll() is None
    ray.raylets.clear()
    before = len(server.text)
    ray.start()
    server.says("^joined the Ray cluster again", 60, before)
    server.says("^ready again", 180, before)
    with ray.cluster.client() as client:
        assert answer(client).status_code == 200


@pytest.mark.long
@pytest.mark.parametrize("fault", ["raylet", "link"])
def test_a_replica_of_a_lost_node_is_placed_elsewhere(three: RayHosts, fault: str) -> None:
    """Each replica has a group of its own. The other one answers all the time; the lost one is back on the third host,
    though Ray takes a minute to see that the link is cut."""
    three.start()
    server = three.serve("--nnodes", "2", "--replicas", "2")
    found = re.search(r"host 1: placed by Ray on node(\d)", server.text)
    assert found is not None and found[1] in "12"
    old = int(found[1])
    lost, spare = three.raylets[old], three.raylets[3 - old]
    agent = the_agent(lost)
    ended, began = ranks(agent), time.monotonic()
    if fault == "raylet":
        ended.append(agent)
        kill_raylet(lost)
    else:
        three.cluster.hosts[old].cut()
    said_after(server, rf"host 1 \(node{old}, .*\) is lost", began, 3.0)
    with three.cluster.client() as client:
        assert answer(client).status_code == 200
        wait_gone(ended)
        server.says(f"host 1: placed by Ray on node{3 - old}", 60)
        until(lambda: client.get("/ready").json().get("status") == "ready", "it is not whole again", 120)
        assert {rank["host"] for rank in client.get("/ready").json()["ranks"]} == {"node0", f"node{3 - old}"}
        assert [answer(client).status_code for _ in range(6)] == [200] * 6
    three.cluster.hosts[old].mend()
    until(lambda: not of_weft(three.cluster.hosts[old]), "the lost host's agent goes on")
    assert len(agents(spare)) == 1
    server.send(signal.SIGTERM)
    assert server.end() == 0, server.text
    until(lambda: not any(map(of_weft, three.cluster.hosts)), "something outlives the engine")


@pytest.mark.long
def test_what_cannot_be_placed_is_refused_at_once(ray: RayHosts, tmp_path: Path) -> None:
    """With what the cluster has; hosts of other versions too, before an agent is started there."""
    host = ray.cluster.hosts[0]
    alone = ray.weft("serve", *DP)
    assert alone.end() == 78
    assert "ray_address auto: " in alone.text and "is there a Ray cluster (ray start) on this host?" in alone.text

    other = other_code(tmp_path / "code")
    (other / "weft-9.dist-info").mkdir()
    (other / "weft-9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: weft\nVersion: 9\n")
    ray.start(roots=[ROOT, other])
    has = r"the cluster has: node\d \(10.77.0.\d\) with 1 CPU; node\d \(10.77.0.\d\) with 1 CPU; free: 2 CPU"
    for words, said in (
        (("--nnodes", "3", "--attn-dp-size", "3"), "Ray can never place hosts 0, 1, 2: 3 nodes with 1 CPU each"),
        (("--nnodes", "2", "--attn-dp-size", "4"), "Ray can never place hosts 0, 1: 2 nodes with 2 CPU each"),
    ):
        began = time.monotonic()
        command = ray.weft("serve", *words)
        assert command.end() == 78, command.text
        assert said in command.text and re.search(has, command.text), command.text
        assert time.monotonic() - began < 30.0
    command = ray.weft("serve", *DP)
    assert command.end() == 78
    own = re.search(r"weft: this host has (\S+), host 1 \(node1, 10.77.0.2\) has 9", command.text)
    assert own is not None and own[1] != "9", command.text
    assert agents(ray.raylets[1]) == []

    refused = {
        "--tp 1": "launcher ray: the layout has one host; give --nnodes",
        f"{' '.join(DP)} --node-rank 1": "from host 0, but --node-rank gives 1; leave one out",
        f"{' '.join(DP)} --ray-address ray://h:1": "must run on a host of the cluster; legal: auto, or HOST:PORT",
    }
    for given, said in refused.items():
        command = ray.weft("serve", *given.split())
        assert command.end() == 78 and said in command.text, command.text
    busy = host.start("weft.cli.main", ["serve", "--ray-address", "auto"], ray.environ())
    assert busy.end() == 78 and "give --launcher ray" in busy.text


@pytest.mark.long
def test_a_host_that_lacks_the_model_ends_the_start(ray: RayHosts) -> None:
    """The agent's own words are shown, instead of a wait for it."""
    ray.start()
    config = ray.cluster.models[0] / "config.json"
    host = ray.cluster.hosts[1]
    host.run("mount", "-t", "tmpfs", "tmpfs", str(config.parent))
    server = ray.weft("serve", *DP)
    assert server.end() == 78, server.text
    assert "host 1: its agent on node1 ended with exit code " in server.text and "config.json" in server.text


@pytest.mark.long
@pytest.mark.parametrize("words", [
    "--world-size 2 --attn-dp-size 2 --nnodes 2 --nprocs-per-node 1 --dist-init-addr 10.77.0.1:25001",
    "--from vllm -- vllm serve --tensor-parallel-size 2 --nnodes 2 --distributed-executor-backend ray",
    "--from sglang -- python -m sglang.launch_server --tp 2 --nnodes 2 --node-rank 0 --dist-init-addr 10.77.0.1:29500",
], ids=["tokenspeed", "vllm", "sglang"])  # fmt: skip
def test_words_of_other_engines(ray: RayHosts, words: str) -> None:
    ray.start()
    ray.serve(*words.split())
    with ray.cluster.client() as client:
        assert answer(client).status_code == 200
