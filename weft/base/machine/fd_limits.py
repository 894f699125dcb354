"""Open files: what weft's processes need of a process's limit (`ulimit -n`), and what that leaves for connections.

Arithmetic, but for `raise_limit`.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from dataclasses import dataclass

from weft.base.errors import ConfigError
from weft.base.plural import counted

MOST_CONNECTIONS = 4096
"""The default, where there are enough descriptors."""
LEAST_CONNECTIONS = 8
"""With room for fewer there is no server."""
REFUSED_AT_ONCE = 16
"""Connections above the limit that may be open until their refusal is sent."""

_SERVER = 24
"""Standard streams, the event loop's, what listens."""
_PER_REPLICA = 8
"""Status page, shared memory, wake-up; while experts are planned, a process with its question and answer."""
_PER_RANK = 4
"""Channel, pidfd, lifeline."""
_SPARE = 16 + REFUSED_AT_ONCE
"""For a moment: pipes to a process that begins, files of the model and of the system."""
_RANK = 32
"""Of a rank: standard streams, what it was handed, modules that it imports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What descriptors are needed for. `ranks`: of all replicas; `files`: of the model, which each rank opens; `peers`:
    sockets of a rank to others."""

    ranks: int = 1
    replicas: int = 1
    files: int = 1
    peers: int = 0

    @property
    def server(self) -> int:
        """Descriptors that connections leave to the server's process: its ranks' twice over, for while some are started
        others may not have ended."""
        return _SERVER + _SPARE + 2 * (_PER_RANK * self.ranks + _PER_REPLICA * self.replicas)

    @property
    def least(self) -> int:
        """The lowest limit under which the server and each of its ranks can run."""
        return max(self.server + LEAST_CONNECTIONS, _RANK + self.files + self.peers)


def raise_limit() -> int:
    """Raises this process's soft limit to the hard one, and gives it: a soft limit that was lowered alone is meant for
    programs that could not handle more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a system that has none so high: the soft one stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def most_connections(wanted: int | None, limit: int, needs: Needs) -> int:
    """How many connections may be open: as many as `wanted`, by default as the limit leaves, at most 4,096.

    ConfigError: the limit is too low for the ranks, or for what is wanted."""
    check(limit, needs)
    room = limit - needs.server
    if wanted is not None and wanted > room:
        raise ConfigError(
            f"--max-connections {wanted}: open files are limited to {limit} (ulimit -n), of which weft needs"
            f" {needs.server} itself; legal: 1 to {room}, or a limit of at least {wanted + needs.server}",
            field="max_connections",
            value=wanted,
        )
    return min(room, MOST_CONNECTIONS) if wanted is None else wanted


def check(limit: int, needs: Needs) -> None:
    """ConfigError: under this limit nothing can be served."""
    if limit < needs.least:
        raise ConfigError(
            f"open files are limited to {limit} (ulimit -n); a server with {counted(needs.ranks, 'rank')} needs at"
            f" least {needs.least}, with more ranks or replicas more: raise the limit (ulimit -n {needs.least};"
            " LimitNOFILE= of systemd)",
            field="ulimit -n",
            value=limit,
        )


def shown(most: int, wanted: int | None, limit: int) -> list[str]:
    """A line for people, where the limit leaves less than would have been allowed."""
    if wanted is not None or most >= MOST_CONNECTIONS:
        return []
    return [f"at most {most} connections, not {MOST_CONNECTIONS}: open files are limited to {limit} (ulimit -n)"]
