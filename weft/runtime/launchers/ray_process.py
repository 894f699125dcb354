"""RayProcess: a RayCluster in a process of its own, asked over a connection. Imports no Ray.

Ray's library ends the process that it is in when the head of the cluster is gone for a minute. Here that ends a process
that nothing else runs in.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from weft.base.errors import ConfigError, PeerError
from weft.base.machine.interpreter import finding_weft, runs
from weft.base.machine.parent_death import tie_to_parent
from weft.runtime.launchers.ray_cluster import PlacedGroup, PlacedHost, RayCluster, RayNode

LOOK_S = 0.2
"""How soon a call that waits hears that it is not wanted any more."""
# Ray takes longer to leave a cluster whose head is gone.
END_S = 5.0
SAYS, ANSWERS, FAILS, CANCEL = "says", "answers", "fails", "cancel"


class RayGoneError(PeerError):
    """The process that speaks to Ray has ended."""


class RayProcess:
    """Takes the calls of a `RayCluster`, from any thread. Each raises RayGoneError where the process has ended."""

    def __init__(self, address: str) -> None:
        self.address, self._lock = address, threading.Lock()
        ours, theirs = socket.socketpair()
        read_end, self._tie = os.pipe2(os.O_CLOEXEC)
        words = [*runs(__name__), str(theirs.fileno()), str(read_end), str(os.getpid()), address]
        with theirs:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # Ray prints its own end there, in many lines
                pass_fds=(theirs.fileno(), read_end),
                env=finding_weft(os.environ),
                start_new_session=True,  # a terminal's interrupt is for the server, which then ends the actors
            )
        os.close(read_end)
        self._connection = Connection(ours.detach())
        try:
            self.own: str = self._receive()
        except BaseException:
            self.close()
            raise

    def nodes(self) -> list[RayNode]:
        """As `RayCluster.nodes`."""
        found: list[RayNode] = self._ask("nodes")
        return found

    def own_node(self) -> RayNode:
        """As `RayCluster.own_node`."""
        found: RayNode = self._ask("own_node")
        return found

    def place(
        self,
        hosts: Sequence[int],
        bundle: Mapping[str, float],
        avoid: Collection[str],
        say: Callable[[str], None],
        limit_s: float,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> PlacedGroup:
        """As `RayCluster.place`; groups and actors are numbers here."""
        asked = (list(hosts), dict(bundle), sorted(avoid), limit_s)
        group, nodes, placed = self._ask("place", *asked, say=say, cancelled=cancelled)
        return PlacedGroup(group, {host: PlacedHost(node, (group, host)) for host, node in placed.items()}, nodes)

    def facts(self, host: PlacedHost) -> tuple[dict[str, str], str]:
        """As `RayCluster.facts`."""
        found: tuple[dict[str, str], str] = self._ask("facts", host.actor)
        return found

    def run(self, host: PlacedHost, words: Sequence[str], folder: str, secret: str) -> None:
        """As `RayCluster.run`."""
        self._ask("run", host.actor, list(words), folder, secret)

    def ended(self, host: PlacedHost) -> tuple[int, list[str]] | None:
        """As `RayCluster.ended`."""
        found: tuple[int, list[str]] | None = self._ask("ended", host.actor)
        return found

    def remove(self, placed: PlacedGroup) -> None:
        """As `RayCluster.remove`."""
        self._ask("remove", placed.group)

    def close(self) -> None:
        """Leaves the cluster and ends the process. Safe to call twice."""
        self._connection.close()
        if self._tie >= 0:
            os.close(self._tie)
            self._tie = -1
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, name: str, *given: Any, **waits: Any) -> Any:
        with self._lock:
            try:
                self._connection.send((name, given))
            except OSError as error:
                raise self._gone() from error
            return self._receive(**waits)

    def _receive(
        self, say: Callable[[str], None] = lambda said: None, cancelled: Callable[[], bool] = lambda: False
    ) -> Any:
        asked_to_end = False
        while True:
            try:
                if not self._connection.poll(LOOK_S):
                    if not asked_to_end and cancelled():
                        asked_to_end = True
                        self._connection.send(CANCEL)
                    continue
                kind, value = self._connection.recv()
            except (EOFError, OSError) as error:
                raise self._gone() from error
            if kind == ANSWERS:
                return value
            if kind == FAILS:
                raise _raised(*value)
            say(value)

    def _gone(self) -> RayGoneError:
        try:
            status = f"exit code {self._process.wait(END_S)}"
        except subprocess.TimeoutExpired:
            status = "its connection was closed"
        return RayGoneError(f"the process that speaks to Ray has ended: {status}")


def _raised(config: bool, message: str, field: str, value: object) -> ConfigError | PeerError:
    return ConfigError(message, field=field, value=value) if config else PeerError(message)


class _Served:
    """The other end: one call at a time, by the names of `RayProcess`."""

    def __init__(self, cluster: RayCluster, connection: Connection) -> None:
        self._cluster, self._connection = cluster, connection
        self._groups: list[PlacedGroup] = []

    def call(self, name: str, given: Sequence[Any]) -> Any:
        """What the cluster's method gives. An actor is called (group, host) here, a group by its number."""
        if name == "place":
            hosts, bundle, avoid, limit_s = given
            placed = self._cluster.place(hosts, bundle, avoid, self._say, limit_s, self._cancelled)
            self._groups.append(placed)
            return len(self._groups) - 1, placed.nodes, {host: each.node for host, each in placed.hosts.items()}
        if name == "remove":
            return self._cluster.remove(self._groups[given[0]])
        if given:
            group, host = given[0]
            given = (self._groups[group].hosts[host], *given[1:])
        return getattr(self._cluster, name)(*given)

    def _say(self, said: str) -> None:
        self._connection.send((SAYS, said))

    def _cancelled(self) -> bool:
        return self._connection.poll(0) and self._connection.recv() == CANCEL


def _answer(connection: Connection, call: Callable[[], Any]) -> None:
    try:
        answer = ANSWERS, call()
    except (ConfigError, PeerError) as error:
        told = isinstance(error, ConfigError)
        answer = FAILS, (told, str(error), getattr(error, "field", ""), str(getattr(error, "value", "")))
    except Exception as error:  # Ray has many kinds, which the server does not know
        answer = FAILS, (False, f"{type(error).__name__}: {error}", "", "")
    connection.send(answer)


def serve(connection: Connection, address: str) -> None:
    """Joins the cluster and answers until the connection ends."""
    joined: list[RayCluster] = []

    def join() -> str:
        joined.append(RayCluster(address))
        return str(joined[0].own)

    _answer(connection, join)
    if not joined:
        return
    served = _Served(joined[0], connection)
    with suppress(EOFError, OSError):
        while True:
            asked = connection.recv()
            if asked != CANCEL:  # of a call that had ended
                _answer(connection, partial(served.call, *asked))
    joined[0].close()


def main(words: Sequence[str]) -> int:
    """`CONNECTION TIE PARENT ADDRESS`: two descriptors, the parent's pid, and Ray's address."""
    connection, tie, parent, address = words
    tie_to_parent(int(parent), int(tie), by_signal=False)
    serve(Connection(int(connection)), address)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
