"""From a plan to a ready executor: spawn every rank, tell it what to do, follow its phases. Knows no request.

`Starting` is split from `wait` so that processes come from the main thread (a child is tied to the thread that made it)
while the wait can happen in another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from weft.errors import PeerError
from weft.launch.backend import Rendezvous
from weft.launch.executor import STEP_LIMIT_S, ProcessExecutor
from weft.launch.memory import MemoryPlan, finish_plan, rank_memories
from weft.launch.messages import Allocate, Entered, Loaded, Setup, pack
from weft.launch.phases import PhaseBoard, PhaseChange
from weft.launch.plan import LaunchPlan
from weft.launch.processes import DEFAULT_PROGRAM, WorkerProcess, end_all, spawn
from weft.launch.status import StatusPage
from weft.launch.watch import Watch
from weft.settings import DTYPE_BYTES

START_LIMIT_S = 1800.0
"""The longest that loading and warming up may take."""

Listener = Callable[[PhaseChange], None]


class Starting:
    """Ranks on their way. Either `wait` gives the executor, which then owns them, or `close` ends them."""

    def __init__(
        self, plan: LaunchPlan, listener: Listener | None = None, program: Sequence[str] = DEFAULT_PROGRAM
    ) -> None:
        self.plan = plan
        self.memory = plan.memory
        self._began = time.monotonic()
        self._board = PhaseBoard(plan.where, listener)
        self._loaded: dict[int, Loaded] = {}
        world = plan.layout.world
        rendezvous = Rendezvous(plan.backend, world)
        status = StatusPage.create(world)
        self.workers: list[WorkerProcess] = []
        try:
            for rank in range(world):
                self.workers.append(self._spawn(rank, status, rendezvous, program))
            for worker in self.workers:
                worker.channel.send(pack(self._setup(worker.rank, rendezvous)), 30.0)
        except BaseException:
            end_all(self.workers)
            status.close()
            rendezvous.close()
            raise
        self._watch = Watch(self.workers, status, rendezvous)

    def _spawn(self, rank: int, status: StatusPage, rendezvous: Rendezvous, program: Sequence[str]) -> WorkerProcess:
        share = self.plan.cores[rank]
        worker = spawn(
            rank,
            self.plan.where[rank],
            status_fd=status.fd,
            inherit=rendezvous.fds(rank),
            threads=share.threads,
            program=program,
        )
        self._board.enter(rank, self._board.phases[rank], f"pid {worker.pid}, {share}", self._seconds())
        return worker

    def _setup(self, rank: int, rendezvous: Rendezvous) -> Setup:
        plan, share = self.plan, self.plan.cores[rank]
        return Setup(
            rank=rank,
            layout=plan.layout,
            config=plan.config,
            engine=plan.engine,
            checkpoint=plan.checkpoint.table(),
            eos_token_ids=plan.eos_token_ids,
            comm=plan.backend.name,
            comm_fd=next(iter(rendezvous.fds(rank)), -1),
            comm_bytes=rendezvous.nbytes,
            comm_port=rendezvous.port,
            comm_limit_s=STEP_LIMIT_S,
            cpus=list(share.cpus),
            threads=share.threads,
        )

    def wait(self, limit_s: float = START_LIMIT_S) -> ProcessExecutor:
        """The executor once every rank is ready; any failure ends all ranks and is raised with the rank's name."""
        try:
            self._follow(time.monotonic() + limit_s, limit_s)
        except BaseException:
            self.close()
            raise
        self._watch.rendezvous.met()
        assert self.memory is not None
        return ProcessExecutor(self.plan.layout, self.memory.num_blocks, self._watch)

    def _follow(self, deadline: float, limit_s: float) -> None:
        for worker, message in self._watch.messages(deadline):
            if isinstance(message, Entered):
                self._board.enter(worker.rank, message.phase, message.detail, self._seconds())
            elif isinstance(message, Loaded):
                self._loaded[worker.rank] = message
                if len(self._loaded) == len(self.workers):
                    self._allocate()
            else:
                raise PeerError(f"{worker.where} sent {type(message).__name__} while starting")
            if self._board.ready:
                return
        phase, ranks = self._board.late()
        raise self._watch.silent(ranks, limit_s, f"start-up, phase {phase}")

    def _allocate(self) -> None:
        """Every rank is loaded: the same number of blocks for all, the least that any has room for."""
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
        memories = rank_memories(shards, engine, DTYPE_BYTES[engine.dtype], None)
        return finish_plan(memories, shards, engine, min(free), free)

    def cancel(self) -> None:
        """Kills every rank at once, from any thread; whoever waits for them is told that they were killed."""
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
