"""Host 0's door: which agents get in, and what others can do."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from tests.support.waiting import until
from weft.base.errors import HostLostError, HostMissingError, PeerError
from weft.compute.comm.distributed import handshake
from weft.compute.comm.distributed.handshake import LinkToken, UnprovenPeerError, introduce
from weft.runtime.ipc.channel import Channel
from weft.runtime.launch_plan.hosts import HostResources, HostsConfig
from weft.runtime.supervisor.hosts.admission import refusal_of
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.hosts.host_messages import (
    AGENT,
    SESSION,
    AgentRefusal,
    HostReport,
    Welcome,
    packed,
    read,
    to_agent,
)

SETTINGS = {"weft code": "abc", "layout.attention.tp": "2"}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> HostsConfig:
    monkeypatch.setenv("WEFT_DIST_SECRET", "known to both hosts")
    # an address of this process's own: other processes take no port of it
    address = "127.{}.{}.{}".format(*os.getpid().to_bytes(4, "big")[1:])
    with closing(socket.create_server((address, 0))) as free:
        port = free.getsockname()[1]
    return HostsConfig(node_rank=0, dist_init_addr=f"{address}:{port}")


@pytest.fixture
def pool(config: HostsConfig) -> Iterator[AgentPool]:
    with closing(AgentPool(config, 2, SETTINGS)) as pool:
        yield pool


def connected(config: HostsConfig, source: str = "") -> socket.socket:
    where = (config.endpoint.host, config.endpoint.port)
    return socket.create_connection(where, 60, (source, 0) if source else None)


def proven(config: HostsConfig, role: int = AGENT, number: int = 0, node: int = 1) -> socket.socket:
    sock = connected(config)
    try:
        introduce(sock, node, role, LinkToken(number, config.secret()))
    except BaseException:
        sock.close()
        raise
    return sock


def report(**changes: object) -> HostReport:
    resources = HostResources("b", "127.0.0.1", "lo", 1 << 30, (), None)
    fields: dict[str, Any] = {
        "node_rank": 1,
        "resources": resources,
        "settings": SETTINGS,
        "own_address": "127.0.0.1",
        "pid": 7,
    }
    return HostReport(**(fields | changes))


def closed(sock: socket.socket) -> bool:
    """Whether the other end closes, whatever it says before."""
    with suppress(ConnectionResetError):
        while sock.recv(1000):
            pass
    return True


def test_an_agent_is_welcomed_and_its_end_is_seen(config: HostsConfig, pool: AgentPool) -> None:
    assert pool.lacking([0, 1]) == "host 1 has not come"
    channel = Channel(proven(config))
    channel.send(packed(report()))
    assert isinstance(read(to_agent, channel.receive(20), "host 0"), Welcome)
    pool.wait([0, 1], 20)
    assert pool.resources(1).name == "b"
    channel.close()
    until(lambda: pool.lacking([1]).startswith("host 1 (b, 127.0.0.1) is lost: the connection was closed"))
    with pytest.raises(HostLostError, match="and has not come back"):
        pool.resources(1)
    with pytest.raises(HostMissingError, match=r"host 1 \(b, 127.0.0.1\) is lost.*waited 0.1 s \(--join-limit\)"):
        pool.wait([1], 0.1)


def test_another_secret_is_seen_by_both_sides(
    config: HostsConfig, pool: AgentPool, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one line for each address and minute."""
    for source in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
        with closing(connected(config, source)) as sock, pytest.raises(UnprovenPeerError):
            introduce(sock, 1, AGENT, LinkToken(0, b"x" * 32))
    said = [line for line in caplog.messages if "does not know the secret" in line]
    assert len(said) == 2 and "127.0.0.1" in said[0] and "127.0.0.2" in said[1]


def test_sessions_that_were_not_asked_for_and_other_roles_are_refused(config: HostsConfig, pool: AgentPool) -> None:
    for role, number in ((SESSION, 5), (7, 0), (AGENT, 3)):
        with pytest.raises((PeerError, ConnectionResetError)):
            proven(config, role, number).close()


def test_what_is_no_hello_is_closed(config: HostsConfig, pool: AgentPool) -> None:
    with closing(connected(config)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".ljust(64, b"x"))
        assert closed(sock)


def test_connections_that_say_nothing_are_closed(
    config: HostsConfig, pool: AgentPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "PROOF_S", 0.2)
    with closing(connected(config)) as sock:
        assert closed(sock)


@pytest.mark.parametrize("addresses", [1, 4, 40])
def test_strangers_that_wait_keep_no_agent_out(addresses: int, config: HostsConfig, pool: AgentPool) -> None:
    """The oldest connection goes, of its address and of all; so an agent comes in while they are renewed."""
    strangers = [connected(config, f"127.9.0.{1 + number % addresses}") for number in range(80)]
    most = min(handshake.MOST_UNPROVEN, addresses * handshake.MOST_OF_ADDRESS)
    until(lambda: len(pool._unproven) == most)
    for number in range(3):
        strangers += [connected(config, f"127.9.0.{1 + each % addresses}") for each in range(80)]
        with closing(proven(config)) as agent:
            assert agent.fileno() >= 0, number
    for each in strangers:
        each.close()
    until(lambda: not len(pool._unproven))


def test_a_frame_that_is_no_report_is_another_version(config: HostsConfig, pool: AgentPool) -> None:
    with closing(Channel(proven(config))) as channel:
        channel.send(b"\x81\xa4type\xa3new")
        answer = read(to_agent, channel.receive(20), "host 0")
    assert answer == AgentRefusal("it speaks other messages: the versions of weft are not the same")
    with closing(Channel(proven(config))) as channel:
        channel.send(os.urandom(64))
        with suppress(PeerError):
            channel.receive(20)
    assert pool.lacking([1]).startswith("host 1 has not come")


@pytest.mark.parametrize(
    ("changes", "peer", "taken_by", "message"),
    [
        ({}, "127.0.0.1", "", None),
        ({"node_rank": 2}, "127.0.0.1", "", "node_rank 2: there are 2 hosts; legal: 1 to 1"),
        ({}, "10.0.0.9", "", "its own address is 127.0.0.1, but host 0 sees it at 10.0.0.9: .* (NAT)"),
        ({"settings": {"weft code": "x"}}, "127.0.0.1", "", "weft code: host 0 has abc, host 1 has x"),
        ({}, "127.0.0.1", "host 1 (c)", "node_rank 1: host 1 (c) has it already"),
    ],
)
def test_refusals(changes: dict[str, object], peer: str, taken_by: str, message: str | None) -> None:
    refusal = refusal_of(report(**changes), 1, peer, 2, SETTINGS, taken_by)
    assert (refusal is None) == (message is None)
    if refusal is not None and message is not None:
        assert all(part in refusal.message for part in message.split(" .* "))
        assert refusal.again == bool(taken_by)


def test_the_end_is_said_to_agents(config: HostsConfig) -> None:
    with closing(AgentPool(config, 2, SETTINGS)) as pool:
        channel = Channel(proven(config))
        channel.send(packed(report()))
        channel.receive(20)
        pool.wait([1], 20)
    assert type(read(to_agent, channel.receive(20), "host 0")).__name__ == "Farewell"
    channel.close()
