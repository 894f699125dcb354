"""Hosts that carry the variables of a Slurm step: the same command on each, without a number or an address."""

from __future__ import annotations

import signal

import pytest

from tests.hosts.cluster import Cluster, answer
from tests.runtime.launchers.test_environment import SLURM
from tests.support.namespaces import Host


def named(host: Host, **names: str) -> None:
    """Addresses by name on a host."""
    file = host.folder / "names"
    file.write_text("".join(f"{address} {name}\n" for name, address in names.items()))
    host.run("mount", "--bind", str(file), "/etc/hosts")


def words(cluster: Cluster, number: int) -> list[str]:
    """The same on both hosts, but for files."""
    given = [str(cluster.models[number]), "--kv-cache-memory", "4MiB", "--served-model-name", "small"]
    return [*given, "--dist-secret-file", str(cluster.secrets[number]), "--uds", str(cluster.hosts[0].folder / "sock")]


@pytest.mark.long
@pytest.mark.parametrize("theirs", [
    ["--tp", "2"],
    ["--world-size", "2", "--attn-tp-size", "2", "--nnodes", "2", "--nprocs-per-node", "1"],
    ["--from", "sglang", "--", "python", "-m", "sglang.launch_server", "--tp", "2", "--nnodes", "2", "--node-rank", "N",
     "--dist-init-addr", "node09:25000"],
], ids=["weft", "tokenspeed", "sglang"])  # fmt: skip
def test_a_step_of_two_nodes(cluster: Cluster, theirs: list[str]) -> None:
    """On host 0 its own name leads to a loopback address, as Debian has it."""
    named(cluster.hosts[0], localhost="127.0.0.1", node09="127.0.1.1", node10="10.77.0.2")
    named(cluster.hosts[1], localhost="127.0.0.1", node09="10.77.0.1", node10="127.0.1.1")
    commands = []
    for host in cluster.hosts:
        given = words(cluster, host.number)
        given += [str(host.number) if word == "N" else word for word in theirs]
        commands.append(host.weft("serve", *given, **SLURM | {"SLURM_NODEID": str(host.number)}))
    commands[0].says("^ready on", 240)
    commands[1].says("host 1 is with host 0 at node09:25000")
    with cluster.client() as client:
        assert answer(client).status_code == 200
    commands[0].send(signal.SIGTERM)
    assert [command.end() for command in commands] == [0, 0]
