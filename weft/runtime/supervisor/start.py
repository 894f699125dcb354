"""From a plan to a ready executor: a process for every rank, its setup, and its start-up phases.

`Starting` is split from `wait` so that processes come from the main thread (a child is tied to the thread that made it)
while the wait can happen in another.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from weft.base.errors import ConfigError, PeerError
from weft.base.settings import DTYPE_BYTES
from weft.compute.comm.backend import CommSpec, HostSite, Rendezvous
from weft.compute.comm.registry import backend_named
from weft.parallel.arch.forward_plan import rank_plans
from weft.runtime.ipc.fingerprint import Settings, common, differences
from weft.runtime.ipc.messages import (
    Allocate,
    Entered,
    Joined,
    Loaded,
    PeerAddresses,
    Recorded,
    StartSteps,
    ToRank,
    WorldSetup,
    pack,
)
from weft.runtime.ipc.phases import Phase, PhaseBoard, PhaseChange
from weft.runtime.ipc.report import RankReport
from weft.runtime.ipc.status import StatusPage
from weft.runtime.launch_plan.memory import MemoryPlan, finish_plan, rank_memories
from weft.runtime.launch_plan.plan import LaunchPlan
from weft.runtime.launch_plan.timeouts import StepClock
from weft.runtime.supervisor.executor import ProcessExecutor
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.hosts.meeting_point import token_of
from weft.runtime.supervisor.hosts.rendezvous import HostsRendezvous
from weft.runtime.supervisor.hosts.session import HostSession
from weft.runtime.supervisor.link import RankLink, end_all
from weft.runtime.supervisor.processes import Spawner
from weft.runtime.supervisor.reports import rank_report
from weft.runtime.supervisor.setups import eager_for_all, setup_of
from weft.runtime.supervisor.watch import Watch

Listener = Callable[[PhaseChange], None]


class Starting:
    """Ranks on their way. Either `wait` gives the executor, which then owns them, or `close` ends them."""

    def __init__(
        self,
        plan: LaunchPlan,
        listener: Listener | None = None,
        spawner: Spawner | None = None,
        *,
        by_signal: bool | None = None,
        start: int = 0,
        agreed: Settings | None = None,
        hosts: AgentPool | None = None,
    ) -> None:
        """`spawner`: None for one of its own. `by_signal`: see its `spawn`. `start`: how many sets of ranks there were
        before. `agreed`: what all replicas have in common. `hosts`: where ranks are on several, all of them here."""
        self.plan, self._agreed = plan, agreed
        self._spawner, self._by_signal, self._start = spawner or Spawner(), by_signal, start
        self.memory = plan.memory
        self._began = time.monotonic()
        self._board = PhaseBoard(plan.where, listener, plan.first_rank)
        self._loaded: dict[int, Loaded] = {}
        self._why_eager: dict[int, str] = {}
        self._joined: dict[int, Joined] = {}
        self._hosts, world = hosts, plan.layout.world
        self._shares = [*plan.cores]
        """Cores of each rank; of a host whose agent was replaced, what that has."""
        self._status = status = StatusPage.create(world)
        self.workers: list[RankLink] = []
        rendezvous = Rendezvous(plan.comm.groups)
        try:
            rendezvous = self._start_ranks(status)
        except BaseException:
            end_all(self.workers)
            status.close()
            rendezvous.close()
            raise
        self._watch = Watch(self.workers, status, rendezvous)

    def _start_ranks(self, status: StatusPage) -> Rendezvous:
        """A process for every rank, and its setup."""
        setup, salt = self._world_setup(), os.urandom(16)
        sessions = [self._begin(node, setup, salt, status) for node in sorted({*self.plan.host_of} - {0})]
        meeting = self._meeting(sessions)
        try:
            for rank in self._own_ranks:
                self._spawn(rank, status, meeting)
            for session in sessions:
                session.await_spawned(self.plan.limits.join_limit)
                for link in session.links.values():
                    self._board.enter(link.rank, Phase.SPAWN, f"pid {link.pid}", self._seconds())
            self.workers.sort(key=lambda link: link.rank)
            addresses = meeting.addresses()
            peers = PeerAddresses()
            if sessions and self._hosts is not None:
                peers = PeerAddresses(addresses, token_of(self._hosts.key, salt), self._hosts.address)
            if isinstance(meeting, HostsRendezvous):
                meeting.meet()
            table = self.plan.checkpoint.table()
            for rank in self._own_ranks:
                share = self.plan.cores[rank]
                self.workers[rank].send(pack(setup_of(setup, rank, share, table, peers)), 30.0)
        except BaseException:
            end_all(self.workers)
            meeting.close()
            raise
        return meeting

    @property
    def _own_ranks(self) -> list[int]:
        return [rank for rank, host in enumerate(self.plan.host_of) if host == 0]

    def _begin(self, node: int, setup: WorldSetup, salt: bytes, status: StatusPage) -> HostSession:
        """The session of another host, with the links of its ranks."""
        plan = self.plan
        if self._hosts is None:
            raise ConfigError("ranks on other hosts need their agents", field="nodes", value=plan.layout.nodes)
        ranks = [rank for rank, host in enumerate(plan.host_of) if host == node]
        shares, first = self._hosts.resources(node).shares, node * setup.ranks_per_host
        given = {rank: shares[plan.first_rank + rank - first] for rank in ranks}
        for rank, share in given.items():
            self._shares[rank] = share
        session = self._hosts.begin(node, setup, given, salt, status)
        self.workers += [session.add(rank, plan.where[rank], plan.first_rank + rank) for rank in ranks]
        return session

    def _meeting(self, sessions: Sequence[HostSession]) -> Rendezvous:
        plan, own = self.plan, self._own_ranks
        backend, groups = backend_named(plan.comm.name), plan.comm.groups
        site = None
        if sessions and self._hosts is not None:
            site = HostSite(0, plan.host_of, self._hosts.address, self._hosts.ports)
        cores = all(plan.cores[rank].cpus for rank in own)
        spec = CommSpec(plan.layout.world, groups, cores, plan.comm.debug, site, plan.comm.mailboxes)
        local = backend.meet(spec) if own else None
        if self._hosts is None or not sessions:
            return local or Rendezvous(groups)
        return HostsRendezvous(groups, local, sessions, self._hosts.refresh)

    def _spawn(self, rank: int, status: StatusPage, rendezvous: Rendezvous) -> None:
        share = self.plan.cores[rank]
        worker = self._spawner.spawn(
            rank,
            self.plan.where[rank],
            number=self.plan.first_rank + rank,
            status_fd=status.fd,
            inherit=rendezvous.fds(rank),
            by_signal=self._by_signal,
        )
        self.workers.append(worker)  # before the listener is called, which may fail
        self._board.enter(rank, Phase.SPAWN, f"pid {worker.pid}, {share}", self._seconds())

    def _world_setup(self) -> WorldSetup:
        plan = self.plan
        return WorldSetup(
            layout=plan.layout,
            config=plan.config,
            engine=common(plan.engine),
            eos_token_ids=plan.eos_token_ids,
            comm=plan.comm.name,
            comm_limit_s=plan.limits.comm_s,
            join_limit_s=plan.limits.join_limit,
            where=plan.where,
            host_of=plan.host_of,
            ranks_per_host=(plan.world or plan.layout).ranks_per_node,
            comm_debug=plan.comm.debug,
            first_rank=plan.first_rank,
            start=self._start,
            slot_maps=plan.slot_maps,
            staged_slots=plan.experts.staged if plan.experts else 0,
            count_experts=plan.experts is not None,
            isa=plan.isa,
            vocabulary=plan.vocabulary,
        )

    def wait(self) -> ProcessExecutor:
        """The executor once every rank is ready; any failure ends all ranks and is raised with the rank's name.

        PeerError names a rank that is late in a phase, or died. ConfigError: ranks with different settings.
        """
        try:
            self._follow()
        except BaseException:
            self.close()
            raise
        self._watch.rendezvous.met()
        assert self.memory is not None
        plan, clock, blocks = self.plan, StepClock(self.plan.limits.step_limit), self.memory.num_blocks
        size, itemsize = plan.engine.tokens_per_block, DTYPE_BYTES[plan.engine.dtype]
        plans = rank_plans(plan.shards.forward_plan, plan.layout, size, itemsize)
        return ProcessExecutor(plan.layout, blocks, self._watch, clock, plans, plan.config.num_experts)

    def _follow(self) -> None:
        for worker, message in self._watch.messages(self._deadline):
            if isinstance(message, Entered):
                self._board.enter(worker.rank, message.phase, message.detail, self._seconds())
            elif isinstance(message, Joined):
                self._join(worker, message)
            elif isinstance(message, Loaded):
                self._loaded[worker.rank] = message
                if len(self._loaded) == len(self.workers):
                    self._allocate()
            elif isinstance(message, Recorded):
                self._why_eager[worker.rank] = message.why_eager
                if len(self._why_eager) == len(self.workers):
                    self._send_all(StartSteps(eager_for_all(self.plan.where, self._why_eager)))
            else:
                raise PeerError(f"{worker.where} sent {type(message).__name__} while starting")
            if self._board.ready:
                return
        phase, ranks = self._board.late()
        limit_s, option = self.plan.limits.of_phase(phase)
        raise self._watch.silent(ranks, limit_s, f"start-up, phase {phase} ({option})")

    def _deadline(self) -> float:
        """Of the phase that the slowest rank is in."""
        limit_s, _ = self.plan.limits.of_phase(self._board.late()[0])
        return self._began + self._board.slowest_since + limit_s

    def _join(self, worker: RankLink, message: Joined) -> None:
        """Refuses a rank that is not the one that was started, and, once all are there, ranks that differ."""
        world = len(self.workers)
        if worker.rank in self._joined or (message.rank, message.world) != (worker.rank, world):
            again = " again" if worker.rank in self._joined else ""
            raise PeerError(
                f"{worker.where} pid {worker.pid} reported{again} as rank {message.rank} of {message.world};"
                f" it was started as rank {worker.rank} of {world}"
            )
        self._joined[worker.rank] = message
        if len(self._joined) == world:
            error = differences(self.plan.where, [self._joined[rank].settings for rank in range(world)])
            if error is None and self._agreed is not None:
                error = self._agreed.check(self.plan.where[0], self._joined[0].settings)
            if error is not None:
                raise error

    def _allocate(self) -> None:
        """Every rank has joined and loaded: the same number of blocks for all, the least that any has room for."""
        if self.memory is None:
            self.memory = self._ask_devices()
            engine = replace(self.plan.engine, max_model_len=self.memory.max_model_len)
            self.plan = replace(self.plan, engine=engine, memory=self.memory)
        self._send_all(Allocate(self.memory.num_blocks, self.memory.max_model_len))

    def _send_all(self, message: ToRank) -> None:
        frame = pack(message)
        for worker in self.workers:
            worker.send(frame, 30.0)

    def _ask_devices(self) -> MemoryPlan:
        free = tuple(self._loaded[rank].device_free or 0 for rank in range(len(self.workers)))
        engine, shards = self.plan.engine, self.plan.shards
        staged = self.plan.experts.staged if self.plan.experts else 0
        memories = rank_memories(shards, engine, DTYPE_BYTES[engine.dtype], None, staged)
        return finish_plan(memories, shards, engine, min(free), free)

    def reports(self) -> list[RankReport]:
        """Where every rank is, from any thread."""
        return [
            rank_report(
                self.plan,
                worker,
                self._board.changes[worker.rank],
                self._joined.get(worker.rank),
                self._shares[worker.rank].cpus,
                self._status,
                self._seconds(),
            )
            for worker in list(self.workers)
        ]

    def cancel(self) -> None:
        """Kills every rank at once, from any thread; a wait for them ends with an error."""
        for worker in self.workers:
            worker.kill()

    def close(self) -> None:
        """Ends every rank and gives all descriptors back; safe to call twice."""
        end_all(self.workers)
        self._watch.close()

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def start_workers(
    plan: LaunchPlan, listener: Listener | None = None, hosts: AgentPool | None = None
) -> ProcessExecutor:
    """Starts all ranks and waits until they are ready. The executor's `close` ends them."""
    return Starting(plan, listener, hosts=hosts).wait()
