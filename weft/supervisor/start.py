"""From a plan to a ready executor: a process for every rank, its setup, and its start-up phases.

`Starting` is split from `wait` so that processes come from the main thread (a child is tied to the thread that made it)
while the wait can happen in another.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace

from weft import env
from weft.comm.backend import Rendezvous
from weft.comm.registry import backend_named
from weft.errors import PeerError
from weft.ipc.fingerprint import Settings, differences
from weft.ipc.messages import Allocate, Entered, Joined, Loaded, Setup, pack
from weft.ipc.phases import Phase, PhaseBoard, PhaseChange
from weft.ipc.report import RankReport
from weft.ipc.status import StatusPage
from weft.launch_plan.memory import MemoryPlan, finish_plan, rank_memories
from weft.launch_plan.plan import LaunchPlan
from weft.launch_plan.timeouts import StepClock
from weft.layout.ranks import coords
from weft.machine.cores import numa_node
from weft.settings import DTYPE_BYTES
from weft.supervisor.executor import ProcessExecutor
from weft.supervisor.processes import Spawner, WorkerProcess, end_all
from weft.supervisor.watch import Watch

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
    ) -> None:
        """`spawner`: None for one of its own. `by_signal`: see its `spawn`. `start`: how many sets of ranks there were
        before. `agreed`: what all replicas have in common."""
        self.plan, self._agreed = plan, agreed
        self._spawner, self._by_signal, self._start = spawner or Spawner(), by_signal, start
        self.memory = plan.memory
        self._began = time.monotonic()
        self._board = PhaseBoard(plan.where, listener, plan.first_rank)
        self._loaded: dict[int, Loaded] = {}
        self._joined: dict[int, Joined] = {}
        world = plan.layout.world
        own_cores = all(share.cpus for share in plan.cores)
        backend, debug = backend_named(plan.comm.name), plan.comm.debug
        rendezvous = backend.meet(world, plan.comm.groups, own_cores=own_cores, debug=debug)
        self._status = status = StatusPage.create(world)
        self.workers: list[WorkerProcess] = []
        try:
            for rank in range(world):
                self._spawn(rank, status, rendezvous)
            for worker in self.workers:
                worker.channel.send(pack(self._setup(worker.rank)), 30.0)
        except BaseException:
            end_all(self.workers)
            status.close()
            rendezvous.close()
            raise
        self._watch = Watch(self.workers, status, rendezvous)

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

    def _setup(self, rank: int) -> Setup:
        plan, share = self.plan, self.plan.cores[rank]
        return Setup(
            rank=rank,
            layout=plan.layout,
            config=plan.config,
            engine=plan.engine,
            checkpoint=plan.checkpoint.table(),
            eos_token_ids=plan.eos_token_ids,
            comm=plan.comm.name,
            comm_limit_s=plan.limits.comm_s,
            cpus=list(share.cpus),
            threads=share.threads,
            yields_core=bool(share.way),
            comm_debug=plan.comm.debug,
            where=plan.where[rank],
            first_rank=plan.first_rank,
            start=self._start,
            slot_maps=plan.slot_maps,
            staged_slots=plan.experts.staged if plan.experts else 0,
            count_experts=plan.experts is not None,
            environ=env.own(),
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
        clock = StepClock(self.plan.limits.step_limit)
        experts = self.plan.config.num_experts
        return ProcessExecutor(self.plan.layout, self.memory.num_blocks, self._watch, clock, experts)

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

    def _join(self, worker: WorkerProcess, message: Joined) -> None:
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
        message = pack(Allocate(self.memory.num_blocks, self.memory.max_model_len))
        for worker in self.workers:
            worker.channel.send(message, 30.0)

    def _ask_devices(self) -> MemoryPlan:
        free = tuple(self._loaded[rank].device_free or 0 for rank in range(len(self.workers)))
        engine, shards = self.plan.engine, self.plan.shards
        staged = self.plan.experts.staged if self.plan.experts else 0
        memories = rank_memories(shards, engine, DTYPE_BYTES[engine.dtype], None, staged)
        return finish_plan(memories, shards, engine, min(free), free)

    def reports(self) -> list[RankReport]:
        """Where every rank is, from any thread."""
        return [self._report(worker) for worker in list(self.workers)]

    def _report(self, worker: WorkerProcess) -> RankReport:
        plan = self.plan
        number = plan.first_rank + worker.rank
        change, at = self._board.changes[worker.rank], coords(plan.world or plan.layout, number)
        joined = self._joined.get(worker.rank)
        cpus = self.plan.cores[worker.rank].cpus
        device = self.plan.engine.device
        work, held = self._status.work(worker.rank), self._status.held(worker.rank)
        return RankReport(
            rank=number,
            coordinates={"replica": at.replica, "stage": at.stage, "dp": at.dp, "cp": at.cp, "tp": at.tp},
            host=platform.node() if joined is None else joined.host,
            pid=worker.pid,
            device=device if device == "cpu" else f"{device}:{number}",
            cpus=list(cpus),
            numa_node=numa_node(cpus),
            phase=change.phase,
            detail=change.detail,
            since_s=round(self._seconds() - change.at_s, 3),
            busy_s=work.busy_s,
            rows=work.rows,
            collective_s=work.collective_s,
            collective_bytes=work.collective_bytes,
            steal_s=work.steal_s,
            weight_bytes=held.weights,
            kv_cache_bytes=held.kv_cache,
            argmax_sketch_bytes=held.bounds,
        )

    def cancel(self) -> None:
        """Kills every rank at once, from any thread; a wait for them ends with an error."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()

    def close(self) -> None:
        """Ends every rank and gives all descriptors back; safe to call twice."""
        end_all(self.workers)
        self._watch.close()

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def start_workers(plan: LaunchPlan, listener: Listener | None = None) -> ProcessExecutor:
    """Starts all ranks and waits until they are ready. The executor's `close` ends them."""
    return Starting(plan, listener).wait()
