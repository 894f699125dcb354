"""What a limit of open files leaves for connections: over limits that this process does not have, and its own."""

from __future__ import annotations

import fcntl
import os
import resource
import sys
from collections.abc import Iterator

import pytest

from weft.base.errors import ConfigError
from weft.base.machine.fd_limits import (
    LEAST_CONNECTIONS,
    MOST_CONNECTIONS,
    Needs,
    check,
    most_connections,
    raise_limit,
    shown,
)
from weft.runtime.ipc.channel import Channel, channel_pair

NEEDS = [Needs(), Needs(ranks=2), Needs(ranks=64, replicas=8), Needs(files=700), Needs(ranks=4, peers=300)]


@pytest.mark.parametrize("needs", NEEDS)
def test_whatever_the_limit_all_that_is_open_stays_below_it(needs: Needs) -> None:
    for limit in [*range(300), *range(300, 9000, 37), sys.maxsize]:
        if limit < needs.least:
            with pytest.raises(ConfigError, match=f"open files are limited to {limit} "):
                most_connections(None, limit, needs)
            continue
        most = most_connections(None, limit, needs)
        assert LEAST_CONNECTIONS <= most <= MOST_CONNECTIONS
        assert most + needs.server <= limit
        assert most == MOST_CONNECTIONS or most + needs.server == limit, "none is wasted"
        assert bool(shown(most, None, limit)) == (most < MOST_CONNECTIONS)


def test_a_number_that_is_asked_for_is_had_or_refused() -> None:
    needs = Needs(ranks=2)
    room = 1024 - needs.server
    assert most_connections(3, 1024, needs) == 3 and most_connections(room, 1024, needs) == room
    assert most_connections(100_000, sys.maxsize, needs) == 100_000
    assert not shown(3, 3, 1024)
    with pytest.raises(ConfigError) as caught:
        most_connections(room + 1, 1024, needs)
    text = str(caught.value)
    assert text.startswith(f"--max-connections {room + 1}: ") and "ulimit -n" in text and f"legal: 1 to {room}," in text
    assert text.endswith(f"at least {room + 1 + needs.server}") and caught.value.field == "max_connections"
    assert most_connections(room + 1, room + 1 + needs.server, needs) == room + 1


def test_more_of_anything_needs_no_less() -> None:
    for more in ({"ranks": 2}, {"replicas": 2}, {"files": 100}, {"peers": 100}):
        assert Needs(**more).least > Needs().least
    with pytest.raises(ConfigError, match=f"a server with 3 ranks needs at least {Needs(ranks=3).least}, "):
        check(20, Needs(ranks=3))


@pytest.fixture
def own_limit() -> Iterator[tuple[int, int]]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield limits
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_soft_limit_becomes_the_hard_one(own_limit: tuple[int, int]) -> None:
    soft, hard = own_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    assert raise_limit() == hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_system_that_gives_no_more_leaves_the_soft_limit(
    own_limit: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_limit() == own_limit[0]
    monkeypatch.undo()


def test_no_limit_is_the_largest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: infinite)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert raise_limit() == sys.maxsize


def test_a_channel_above_1023_is_looked_at(own_limit: tuple[int, int]) -> None:
    """As those of ranks that are started while clients hold a thousand connections."""
    if raise_limit() < 1100:
        pytest.skip("the limit of open files is too low")
    low, theirs = channel_pair()
    high = Channel.of_fd(fcntl.fcntl(low.fileno(), fcntl.F_DUPFD_CLOEXEC, 1024))
    low.close()
    assert high.fileno() > 1023 and not high.readable()
    os.write(theirs.fileno(), b"x")
    assert high.readable()
    high.close()
    theirs.close()
