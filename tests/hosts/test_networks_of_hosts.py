"""Addresses between hosts: IPv6, names, interfaces and ports, as they are given and as sockets have them."""

from __future__ import annotations

import signal

from tests.hosts.cluster import Cluster, answer
from tests.hosts.test_refused_hosts import changed
from tests.support.namespaces import Host


def sockets(host: Host, *words: str) -> list[tuple[str, str]]:
    """Local and peer address of each TCP socket."""
    return [(line.split()[3], line.split()[4]) for line in host.run("ss", "-tnH", *words).splitlines()]


def test_ipv6_a_name_an_interface_and_ports(cluster: Cluster) -> None:
    near, far = cluster.hosts
    for host in cluster.hosts:
        host.run("ip", "-6", "address", "add", f"fd77::{host.number + 1}/64", "dev", "eth0", "nodad")
    far.run("ip", "link", "add", "link", "eth0", "name", "other", "type", "macvlan", "mode", "bridge")
    far.run("ip", "link", "set", "other", "up")
    far.run("ip", "-6", "address", "add", "fd77::12/64", "dev", "other", "nodad")
    words = changed(cluster.words(0, "--tp", "2"), ("--dist-init-addr", "[fd77::1]:25000"))
    head = near.weft("serve", *words, "--dist-ports", "26000-26003")
    head.says(r"waiting for 2 hosts with 1 rank each at \[fd77::1\]:25000")

    by_name = changed(cluster.words(1, "--tp", "2"), ("--dist-init-addr", "head:25000"))
    lost = far.weft("serve", *changed([*by_name], ("--dist-interface", "none")))
    lost.says("host 0 is not at head:25000 yet")
    names = far.folder / "names"
    names.write_text("fd77::1 head\n")
    far.run("mount", "--bind", str(names), "/etc/hosts")
    assert lost.end() == 78
    assert "dist_interface none: it has no IPv6 address; legal: eth0, lo, other" in lost.text

    agent = far.weft("serve", *changed([*by_name], ("--dist-interface", "other"), ("--dist-ports", "26004-26007")))
    head.says(r"host 1 \(node1, fd77::12\) is here")
    agent.says(r"host 1 is with host 0 at head:25000, from node1 \(fd77::12 on other\)")
    head.says("^ready on", 240)
    with cluster.client() as client:
        assert answer(client).status_code == 200
    between = [pair for pair in sockets(near) if pair[1].startswith("[fd77::12]:")]
    ports = {int(local.rpartition(":")[2]) for local, _ in between if local.startswith("[fd77::1]:")}
    assert len(between) == 3 and 25000 in ports and ports & set(range(26000, 26004)), between
    listening = [local for host in cluster.hosts for local, _ in sockets(host, "-l")]
    assert listening == ["[fd77::1]:25000"], listening
    head.send(signal.SIGTERM)
    assert (head.end(), agent.end()) == (0, 0)
