"""From a plan to an engine over ready ranks, as often as the ranks die: what the engine's thread does first."""

from __future__ import annotations

import threading
from collections.abc import Callable

from weft.base.errors import PeerError
from weft.engine.core.engine import Engine
from weft.frontend.serving.engines import balancing_of, make_engine, with_placement
from weft.runtime.ipc.fingerprint import Settings
from weft.runtime.ipc.phases import PhaseChange
from weft.runtime.ipc.report import RankReport
from weft.runtime.launch_plan.plan import LaunchPlan
from weft.runtime.supervisor.executor import ProcessExecutor
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.processes import Spawner
from weft.runtime.supervisor.start import Starting

Listener = Callable[[int, PhaseChange], None]
"""Hears (number of the replica's set of ranks, phase change); from the engine's thread."""


def starts_of(
    plan: LaunchPlan, listener: Listener, spawner: Spawner | None = None, hosts: AgentPool | None = None
) -> list[EngineStart]:
    """One for each replica of the plan. Several must agree on code and files, whenever they are started. `hosts`: where
    ranks are on several."""
    replicas = range(plan.layout.replicas)
    agreed = Settings() if len(replicas) > 1 else None
    return [
        EngineStart(plan.of_replica(replica), listener, spawner or Spawner(), agreed, hosts) for replica in replicas
    ]


class EngineStart:
    """A `Start` over `plan`. Its ranks end with the thread that calls it: one that lives as long as the server.

    Each set of ranks begins with the placement of experts that the last one had switched to. ConfigError: statistics
    of experts cannot be written."""

    def __init__(
        self,
        plan: LaunchPlan,
        listener: Listener,
        spawner: Spawner,
        agreed: Settings | None = None,
        hosts: AgentPool | None = None,
    ) -> None:
        self._plan, self._listener, self._spawner, self._agreed = plan, listener, spawner, agreed
        self._hosts = hosts
        self._balancing = balancing_of(plan)
        self._lock = threading.Lock()
        self._starting: Starting | None = None
        self._starts = 0
        self._cancelled = False

    def __call__(self) -> tuple[Engine, ProcessExecutor]:
        """Spawns the ranks and waits until every one is ready."""
        balancing = self._balancing
        if balancing is not None:
            balancing.begin()
            self._plan = with_placement(self._plan, balancing.placement)
        if self._hosts is not None:  # a host that was lost is waited for; the ranks' own limits count from then on
            self._hosts.wait({*self._plan.host_of}, self._plan.limits.join_limit, self._given_up)
        starting = self._spawn()
        executor = starting.wait()
        return make_engine(executor, starting.plan, balancing), executor

    def _given_up(self) -> PeerError | None:
        return PeerError("the start was given up") if self._cancelled else None

    def _spawn(self) -> Starting:
        number = self._starts
        with self._lock:
            if self._cancelled:
                raise PeerError("the server ends, no rank is started")
            self._starts += 1
            self._starting = Starting(
                self._plan,
                lambda change: self._listener(number, change),
                self._spawner,
                by_signal=True,
                start=number,
                agreed=self._agreed,
                hosts=self._hosts,
            )
            return self._starting

    def cancel(self) -> None:
        """Ends the ranks at once, and starts none any more."""
        with self._lock:
            self._cancelled = True
            if self._starting is not None:
                self._starting.cancel()

    def lacking(self) -> str:
        """Which host it waits for; empty: none."""
        return "" if self._hosts is None else self._hosts.lacking(self._plan.host_of)

    def reports(self) -> list[RankReport]:
        """Where every rank is; empty before the first is spawned."""
        return [] if self._starting is None else self._starting.reports()
