"""Two hosts are one engine: the same answers as one host, whatever is split over them."""

from __future__ import annotations

import signal

import pytest

from tests.hosts.cluster import Cluster, answer

TOGETHER = [("--tp", "2"), ("--tp", "2", "--comm", "gloo"), ("--attn-dp-size", "2"), ("--replicas", "2")]


@pytest.mark.parametrize("layout", TOGETHER, ids=["tp", "gloo", "dp", "replicas"])
def test_answers_are_those_of_one_host(cluster: Cluster, layout: tuple[str, ...]) -> None:
    server, agent = cluster.serve(*layout)
    with cluster.client() as client:
        texts = [answer(client, prompt).json()["choices"][0]["text"] for prompt in ("Hello", "What is it", "a b c")]
        ranks = client.get("/ready").json()["ranks"]
    assert {rank["host"] for rank in ranks} == {"node0", "node1"}
    assert "host 1 (node1, 10.77.0.2) is here" in server.text
    assert "host 1 is with host 0 at 10.77.0.1:25000, from node1 (10.77.0.2 on eth0)" in agent.text
    server.send(signal.SIGTERM)
    assert (server.end(), agent.end()) == (0, 0)
    assert cluster.hosts[0].processes() == cluster.hosts[1].processes() == []
    alone = cluster.hosts[0].weft("serve", *cluster.alone())
    alone.says("^ready on", 240)
    with cluster.client() as client:
        for prompt, text in zip(("Hello", "What is it", "a b c"), texts, strict=True):
            assert answer(client, prompt).json()["choices"][0]["text"] == text


def test_four_ranks_on_two_hosts_agree_with_one_rank(cluster: Cluster) -> None:
    """Groups inside a host, across both, and with two members on each."""
    layout = ("--attn-tp-size", "2", "--attn-dp-size", "2", "--dense-tp-size", "4", "--lm-head-tp-size", "2")
    commands = [host.weft("verify", *cluster.meeting(host.number, *layout)) for host in cluster.hosts]
    assert [command.end(240) for command in commands] == [0, 0], commands[0].text
    assert "agrees" in commands[0].text


def test_a_group_without_requests_joins_every_step(cluster: Cluster) -> None:
    """One request at a time: of two attention-dp groups, each on a host of its own, one has nothing to do."""
    server, _ = cluster.serve("--attn-dp-size", "2", "--dense-tp-size", "2", "--lm-head-tp-size", "2")
    with cluster.client() as client:
        texts = {answer(client, tokens=200, ignore_eos=True).json()["choices"][0]["text"] for _ in range(6)}
        ranks = client.get("/ready").json()["ranks"]
    assert len(texts) == 1
    assert all(rank["collective_bytes"] > 0 for rank in ranks)
    server.send(signal.SIGTERM)
    assert server.end() == 0


def test_python_on_host_0_and_words_of_another_engine_on_host_1(cluster: Cluster) -> None:
    theirs = ["--from", "sglang", "--", "python", "-m", "sglang.launch_server", "--model-path", str(cluster.models[1])]
    theirs += ["--tp", "2", "--nnodes", "2", "--node-rank", "1", "--dist-init-addr", "10.77.0.1:25000"]
    agent = cluster.hosts[1].weft("serve", "--dist-secret-file", str(cluster.secrets[1]), *theirs)
    code = f"""
import weft
from weft.launch_plan.hosts import HostsConfig
meeting = HostsConfig(dist_init_addr="10.77.0.1:25000", dist_secret_file={str(cluster.secrets[0])!r})
with weft.LLM({str(cluster.models[0])!r}, tp=2, nnodes=2, hosts=meeting) as llm:
    print(llm.plan.host_of, len(llm.generate("Hello")[0].outputs[0].token_ids) > 0)
"""
    assert "(0, 1) True" in cluster.hosts[0].python(code)
    assert agent.end() == 0, agent.text
