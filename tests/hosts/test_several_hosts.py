"""Two hosts are one engine: the same answers as one host, whatever is split over them."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest

from tests.hosts.cluster import PROMPTS, Cluster, answer
from tests.hosts.test_refused_hosts import changed
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import until
from weft.cli.main import main

TOGETHER = [
    ("--tp", "2"),
    # gloo between hosts: test_gloo_carries_messages_of_stages_too
    pytest.param(("--tp", "2", "--comm", "gloo"), marks=pytest.mark.long),
    *(("--attn-dp-size", "2"), ("--replicas", "2"), ("--pp", "2")),
]


def sleeps(pid: int) -> bool:
    """Whether a process's first thread wakes up at most once in a second."""
    before = wakeups(pid)
    time.sleep(1.0)
    return wakeups(pid) <= before + 1


def wakeups(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@pytest.mark.parametrize("layout", TOGETHER, ids=["tp", "gloo", "dp", "replicas", "stages"])
def test_answers_are_those_of_one_host(cluster: Cluster, layout: tuple[str, ...], of_one_rank: list[str]) -> None:
    server, agent = cluster.serve(*layout)
    with cluster.client() as client:
        texts = [answer(client, prompt).json()["choices"][0]["text"] for prompt in PROMPTS]
        ranks = client.get("/ready").json()["ranks"]
    assert {rank["host"] for rank in ranks} == {"node0", "node1"}
    if layout == TOGETHER[0]:
        until(lambda: sleeps(agent.pid), "an agent without work wakes up again and again")
    assert "host 1 (node1, 10.77.0.2) is here" in server.text
    assert "host 1 is with host 0 at 10.77.0.1:25000, from node1 (10.77.0.2 on eth0)" in agent.text
    server.send(signal.SIGTERM)
    assert (server.end(), agent.end()) == (0, 0)
    assert cluster.hosts[0].processes() == cluster.hosts[1].processes() == []
    assert texts == of_one_rank


def test_four_ranks_on_two_hosts_agree_with_one_rank(cluster: Cluster) -> None:
    """Groups inside a host, across both, and with two members on each."""
    layout = ("--attn-tp-size", "2", "--attn-dp-size", "2", "--dense-tp-size", "4", "--lm-head-tp-size", "2")
    commands = [host.weft("verify", *cluster.meeting(host.number, *layout)) for host in cluster.hosts]
    assert [command.end(240) for command in commands] == [0, 0], commands[0].text
    assert "agrees" in commands[0].text


CONTEXTS = {
    "cp over hosts": ("--attn-cp-size", "2"),
    "cp over hosts, kv_split inside": ("--attn-cp-size", "2", "--tp", "6", "--kv-split-size", "2"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_on_two_hosts_agrees_with_one_rank(cluster: Cluster, name: str) -> None:
    layout = (*CONTEXTS[name], "--dtype", "float32")
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
from weft.runtime.launch_plan.hosts import HostsConfig
meeting = HostsConfig(dist_init_addr="10.77.0.1:25000", dist_secret_file={str(cluster.secrets[0])!r})
with weft.LLM({str(cluster.models[0])!r}, tp=2, nnodes=2, hosts=meeting) as llm:
    print(llm.plan.host_of, len(llm.generate("Hello")[0].outputs[0].token_ids) > 0)
"""
    assert "(0, 1) True" in cluster.hosts[0].python(code)
    assert agent.end() == 0, agent.text


def test_experts_move_between_hosts_while_requests_run(cluster: Cluster, tmp_path: Path) -> None:
    dense = write_tiny_chat(tmp_path / "dense")
    for number in (0, 1):
        out = cluster.models[number] = cluster.hosts[number].folder / "mixture"
        words = ["--experts", "8", "--top-k", "2", "--skew", "zipf:1.2", "--dtype", "float32", "--out", str(out)]
        assert main(["upcycle", str(dense), *words]) == 0
    balanced = ("--expert-balance-interval", "20", "--eplb-threshold", "1", "--eplb-bytes-per-step", "16KiB")
    layout = ("--attn-dp-size", "2", "--moe-ep-size", "2", "--expert-slots", "10", "--eplb", *balanced)
    server, agent = cluster.serve(*layout)
    texts: dict[str, set[str]] = {prompt: set() for prompt in ("Hello", "What is it")}

    def switched() -> bool:
        for prompt, found in texts.items():
            found.add(answer(client, prompt, 24, ignore_eos=True).json()["choices"][0]["text"])
        page = client.get("/metrics").text
        return bool(re.search(r"^weft:expert_layers_switched_total\{.*\} [1-9]", page, re.M))

    with cluster.client() as client:
        until(switched, "no layer has a new placement", 240)
        switched()
    assert [len(found) for found in texts.values()] == [1, 1]
    server.send(signal.SIGTERM)
    assert (server.end(), agent.end()) == (0, 0)


@pytest.mark.long
def test_the_embedded_model_gives_one_hosts_ids(cluster: Cluster) -> None:
    prompts = ["The capital of France is", "Once upon a time"]
    given = ["--raw", "--max-tokens", "48", "--temperature", "0", "--ignore-eos", "--json", *prompts]
    memory = ("--kv-cache-memory", "64MiB")
    meeting = [changed(cluster.meeting(host.number, "--tp", "2")[1:], memory) for host in cluster.hosts]
    commands = [host.weft("generate", *words, *given) for host, words in zip(cluster.hosts, meeting, strict=True)]
    assert [command.end(400) for command in commands] == [0, 0], commands[0].text
    alone = cluster.hosts[0].weft("generate", *memory, *given)
    assert alone.end(400) == 0, alone.text
    ids = [re.findall(r'"token_ids": \[[^]]*\]', command.text) for command in (commands[0], alone)]
    assert ids[0] == ids[1] and len(ids[0]) == len(prompts), alone.text


@pytest.mark.long  # what a benchmark measures and saves: tests/tools/bench/test_bench_served.py
def test_a_benchmark_over_hosts_says_what_was_measured(cluster: Cluster, tmp_path: Path) -> None:
    given = ["--input-len", "8", "--output-len", "8", "--concurrency", "2", "--num-prompts", "4"]
    saved = tmp_path / "bench.json"
    commands = [
        host.weft("bench", *cluster.meeting(host.number, "--tp", "2"), *given, *more)
        for host, more in zip(cluster.hosts, (["--save", str(saved)], []), strict=True)
    ]
    assert [command.end(240) for command in commands] == [0, 0], commands[0].text
    document = json.loads(saved.read_text())
    assert document["layout"]["nodes"] == 2 and document["server"]["max_model_len"] > 0
    assert document["runs"][0]["completed"] == 4
    assert "host 0 has ended" in commands[1].text
