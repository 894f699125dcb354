"""RayHosts: places the agents of a layout's hosts on a Ray cluster, and places them again when they are lost.

Ray places, weft watches: whether a host is there is asked of the agent pool, which sees a cut link within seconds;
Ray takes a minute. Each replica's hosts are a placement group. Where the cluster itself ends, hosts that run go on, and
those that are lost are placed when a cluster is there again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from weft.base.errors import ConfigError, WeftError
from weft.base.log import get_logger
from weft.base.settings import EngineConfig
from weft.parallel.layout.layout import Layout
from weft.runtime.launchers.ray_actor import versions
from weft.runtime.launchers.ray_cluster import PlacedGroup
from weft.runtime.launchers.ray_process import RayGoneError, RayProcess
from weft.runtime.supervisor.hosts.agent_pool import AgentPool

_log = get_logger(__name__)
LOOK_S = 0.3
LOST_S = 4.0
"""How long a host is missing before another node is looked for: an agent that is started again is back before."""
REST_S = 10.0
AGAIN_S = 2.0
"""Between two tries to place, or to start an agent again."""


class RayHosts:
    """`words`: of each agent, without what says which host it is."""

    def __init__(
        self,
        cluster: RayProcess,
        layout: Layout,
        engine: EngineConfig,
        words: Sequence[str],
        secret: str,
        limit_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._cluster, self._words, self._secret, self._say = cluster, list(words), secret, say
        self._limit_s, self._folder = limit_s, os.getcwd()
        self._bundle = _bundle(layout, engine)
        size = max(1, layout.nodes // layout.replicas)
        self._members = [range(first, first + size) for first in range(0, layout.nodes, size)]
        self._placed: list[PlacedGroup | None] = [None] * len(self._members)
        self._missing_since: dict[int, float] = {}
        self._again_at: dict[int, float] = {}
        self._ending, self._closed, self._gone = threading.Event(), False, False
        self._thread: threading.Thread | None = None

    def place(self) -> None:
        """All groups, and their agents once each host has this one's versions. ConfigError, at once: the cluster has no
        such nodes, or a host differs; with what it has. PeerError: no room within the limit."""
        for number in range(len(self._members)):
            self._place(number)
        for placed in self._placed:
            assert placed is not None
            self._compare(placed)
        for number in range(len(self._members)):
            self._start(number)

    def _place(self, number: int, avoid: frozenset[str] = frozenset()) -> None:
        members = self._members[number]
        others = [group for index, group in enumerate(self._placed) if group is not None and index != number]
        used = {node.number for group in others for node in group.nodes}
        self._placed[number] = placed = self._cluster.place(
            members, self._bundle, {*used, *avoid}, self._say, self._limit_s, self._ending.is_set
        )
        for host, at in placed.hosts.items():
            self._say(f"host {host}: placed by Ray on {at.node.name} ({at.node.address})")

    def _compare(self, placed: PlacedGroup) -> None:
        own = versions()
        for host, at in placed.hosts.items():
            theirs, name = self._cluster.facts(at)
            different = [
                f"{field}: this host has {value}, host {host} ({name}, {at.node.address}) has {theirs.get(field)}"
                for field, value in own.items()
                if theirs.get(field) != value
            ]
            if different:
                message = f"hosts of the Ray cluster do not have the same versions: {'; '.join(different)}"
                raise ConfigError(message, field="launcher", value="ray")

    def _start(self, number: int) -> None:
        placed = self._placed[number]
        assert placed is not None
        for host, at in placed.hosts.items():
            self._cluster.run(at, _of_host(self._words, host), self._folder, self._secret)

    def watch(self, pool: AgentPool) -> None:
        """Starts the thread that places again what is lost."""
        self._thread = threading.Thread(target=self._watch, args=(pool,), name="ray", daemon=True)
        self._thread.start()

    def _watch(self, pool: AgentPool) -> None:
        while not self._ending.wait(AGAIN_S if self._gone else LOOK_S):
            if self._gone and not self._joined_again():
                continue
            for number, members in enumerate(self._members):
                try:
                    self._look(number, [host for host in members if host > 0], pool)
                except RayGoneError as error:
                    self._lose(str(error))
                    break
                except ConfigError as error:  # what the cluster has now: it may have more later
                    self._later(number, str(error))
                except Exception as error:  # of Ray: the watch over the other groups must go on
                    self._later(number, f"{type(error).__name__}: {error}")

    def _lose(self, reason: str) -> None:
        _log.warning("%s; hosts that run go on, lost ones are placed when the Ray cluster is back", reason)
        self._gone, self._placed = True, [None] * len(self._members)
        self._cluster.close()

    def _joined_again(self) -> bool:
        try:
            self._cluster = RayProcess(self._cluster.address)
        except WeftError:
            return False
        self._say("joined the Ray cluster again")
        self._gone = False
        return True

    def _later(self, number: int, reason: str) -> None:
        if number not in self._again_at:
            _log.error("%s", reason)
        self._again_at[number] = time.monotonic() + AGAIN_S

    def _look(self, number: int, hosts: Sequence[int], pool: AgentPool) -> None:
        """One group: an agent that ended is started again; where its actor or node ended, or a host is missing while
        another node is free, the group is placed again."""
        if time.monotonic() < self._again_at.get(number, 0.0) or self._ending.is_set():
            return
        placed = self._placed[number]
        if placed is None:
            if pool.lacking(hosts):
                self._again(number, frozenset())
            return
        lost = frozenset(placed.hosts[host].node.number for host in hosts if self._is_missing(host, pool))
        for host in hosts:
            at = placed.hosts[host]
            try:
                ended = self._cluster.ended(at)
            except WeftError as error:
                _log.error("host %d: its actor on %s has ended: %s", host, at.node, error)
                self._again(number, frozenset())
                return
            if ended is not None:
                self._say(f"host {host}: its agent ended with exit code {ended[0]}; starting it again")
                self._cluster.run(at, _of_host(self._words, host), self._folder, self._secret)
                self._again_at[number] = time.monotonic() + AGAIN_S
        if lost and self._is_room(number, lost):
            _log.error("host %s is missing for %g s: looking for another node", ", ".join(map(str, hosts)), LOST_S)
            self._again(number, lost)

    def _is_missing(self, host: int, pool: AgentPool) -> bool:
        now = time.monotonic()
        if not pool.lacking([host]):
            self._missing_since.pop(host, None)
            return False
        return now - self._missing_since.setdefault(host, now) > LOST_S

    def _is_room(self, number: int, lost: frozenset[str]) -> bool:
        """Whether nodes without a host are left beside those that are lost."""
        used = {node.number for group in self._placed if group is not None for node in group.nodes} | lost
        free = [node for node in self._cluster.nodes() if node.number not in used]
        return sum(_has(node.resources, self._bundle) for node in free) >= len(lost)

    def _again(self, number: int, avoid: frozenset[str]) -> None:
        if (old := self._placed[number]) is not None:
            self._placed[number] = None
            self._cluster.remove(old)
        self._place(number, avoid)
        placed = self._placed[number]
        assert placed is not None
        self._compare(placed)
        self._start(number)
        self._again_at.pop(number, None)
        for host in placed.hosts:
            self._missing_since.pop(host, None)

    def give_up(self) -> WeftError | None:
        """Why the first start cannot go on: an agent that host 0 refused, or that could not start."""
        for placed in self._placed:
            for host, at in placed.hosts.items() if placed is not None else ():
                try:
                    ended = self._cluster.ended(at)
                except WeftError as error:
                    return ConfigError(f"host {host}: its actor on {at.node} has ended: {error}", field="launcher")
                if ended is not None and ended[0] != 0:
                    said = "; ".join(ended[1][-3:])
                    message = f"host {host}: its agent on {at.node.name} ended with exit code {ended[0]}: {said}"
                    return ConfigError(message, field="launcher", value="ray")
        return None

    def rest(self) -> None:
        """Places nothing from here on."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(REST_S)

    def close(self) -> None:
        """Ends the actors and leaves the cluster. The agents were asked to end before. Safe to call
        twice."""
        self.rest()
        if self._closed:
            return
        self._closed = True
        with suppress(RayGoneError):
            for placed in self._placed:
                if placed is not None:
                    self._cluster.remove(placed)
        self._cluster.close()


def _bundle(layout: Layout, engine: EngineConfig) -> dict[str, float]:
    """What a host is asked to have: a core for each rank, and devices."""
    ranks = layout.ranks_per_node
    devices = {"GPU": float(-(-ranks // engine.ranks_per_device))} if engine.device == "cuda" else {}
    return {"CPU": float(ranks), **devices}


def _has(resources: object, bundle: dict[str, float]) -> bool:
    assert isinstance(resources, dict)
    return all(resources.get(name, 0) >= count for name, count in bundle.items())


def _of_host(words: Sequence[str], host: int) -> list[str]:
    """With the number; another engine's words stay last."""
    cut = words.index("--") if "--" in words else len(words)
    return [*words[:cut], "--node-rank", str(host), *words[cut:]]
