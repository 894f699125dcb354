"""What is wrong between hosts is said on the side that is wrong, with exit code 78, and the head goes on waiting."""

from __future__ import annotations

import json
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.hosts.cluster import Cluster, answer
from tests.support.namespaces import ROOT
from weft.base.machine.devices import torch_without_devices


def changed(words: list[str], *pairs: tuple[str, str]) -> list[str]:
    """With other values after these flags; a flag that is not there is added."""
    for flag, value in pairs:
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    return words


def other_file(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 12345.0}))


def other_code(root: Path) -> Path:
    """A copy of weft with one line more."""
    shutil.copytree(ROOT / "weft", root / "weft", ignore=shutil.ignore_patterns("_build", "__pycache__"))
    (root / "weft" / "compute" / "native" / "_build").symlink_to(ROOT / "weft" / "compute" / "native" / "_build")
    with (root / "weft" / "base" / "errors.py").open("a") as file:
        file.write("# one line more\n")
    return root


def test_hosts_that_do_not_fit_are_refused_and_the_head_waits_for_one_that_does(cluster: Cluster) -> None:
    far, right = cluster.hosts[1], cluster.words(1, "--tp", "2")
    head = cluster.hosts[0].weft("serve", *cluster.words(0, "--tp", "2"), "--join-limit", "600")
    head.says("waiting for 2 hosts with 1 rank each at 10.77.0.1:25000")

    wrong = far.folder / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("another secret, long enough")
    agent = far.weft("serve", *changed([*right], ("--dist-secret-file", str(wrong))))
    assert agent.end() == 78
    assert "the secrets of host 0 and host 1 are not the same" in agent.text
    assert "another secret" not in agent.text

    agent = far.weft("serve", *changed([*right], ("--max-num-seqs", "8"), ("--lm-head-tp-size", "1")))
    assert agent.end() == 78
    assert "engine.max_num_seqs: host 0 has 64, host 1 has 8" in agent.text
    assert "layout.lm_head.tp: host 0 has 2, host 1 has 1" in agent.text

    head.says("10.77.0.2: refused: hosts do not have the same settings")

    other = other_code(far.folder / "code")
    agent = far.start("weft.cli.main", ["serve", *right], root=other)
    assert agent.end() == 78
    assert re.search("weft code: host 0 has [0-9a-f]{16}, host 1 has [0-9a-f]{16}", agent.text), agent.text

    kept = (cluster.models[1] / "config.json").read_text()
    other_file(cluster.models[1])
    agent = far.weft("serve", *right)
    assert agent.end() == 78
    assert "checkpoint: host 0 has " in agent.text
    (cluster.models[1] / "config.json").write_text(kept)

    def garbage() -> None:
        import socket

        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 4096, b"WEFTLNK1" + b"\7" * 64):
            with socket.create_connection(("10.77.0.1", 25000), timeout=60) as sock:
                sock.sendall(noise)
                said = b""
                with suppress(ConnectionResetError):
                    while part := sock.recv(4096):
                        said += part
                assert said[24:] in (b"", b"\0\1")  # a greeting, then a refusal

    cluster.hosts[1].inside(garbage)

    first = far.weft("serve", *right)
    head.says("host 1 .* is here")
    head.says("^ready on", 240)
    second = far.weft("serve", *right)
    assert second.end() == 78
    assert "node_rank 1: host 1 (node1, 10.77.0.2) has it already" in second.text
    with cluster.client() as client:
        assert answer(client).status_code == 200
    head.send(signal.SIGTERM)
    assert (head.end(), first.end()) == (0, 0)
    assert "correct horse" not in head.text + first.text


def test_a_head_that_cannot_be_found_and_hosts_that_do_not_come(cluster: Cluster) -> None:
    words = changed(cluster.words(0, "--tp", "2"), ("--dist-init-addr", "10.77.0.9:25000"))
    head = cluster.hosts[0].weft("serve", *words)
    assert head.end() == 78
    assert "this host's own addresses: 10.77.0.1 (eth0)" in head.text

    head = cluster.hosts[0].weft("serve", *cluster.words(0, "--tp", "2"), "--join-limit", "2")
    assert head.end() == 69
    assert "host 1 has not come; waited 2 s (--join-limit)" in head.text

    agent = cluster.hosts[1].weft("serve", *cluster.words(1, "--tp", "2"), "--join-limit", "2")
    assert agent.end() == 69
    assert "host 0 is not at 10.77.0.1:25000 after 2 s (--join-limit): Connection refused" in agent.text

    words = [*cluster.words(0, "--tp", "2"), "--lm-head-local-tp", "2"]
    head = cluster.hosts[0].weft("serve", *words)
    assert head.end() == 78
    assert "lm_head tp 2: within node: a node has 1 ranks; legal: 1" in head.text

    for nprocs, said in (("3", "nprocs_per_node 3 x nnodes 2 = 6, but the layout has a world of 2; legal: 1"),):
        head = cluster.hosts[0].weft("serve", *cluster.words(0, "--tp", "2"), "--nprocs-per-node", nprocs)
        assert head.end() == 78
        assert said in head.text


def test_a_device_that_is_not_there_is_refused(cluster: Cluster) -> None:
    """On the host that lacks it, before another one is waited for."""
    if torch_without_devices() is None:
        pytest.skip("this torch is for devices, too")
    for host in cluster.hosts:
        command = host.weft("serve", *cluster.words(host.number, "--tp", "2"), "--device", "cuda")
        assert command.end() == 78
        assert f"and each rank of host {host.number} needs one of its own; legal here: cpu" in command.text
