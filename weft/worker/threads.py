"""Which cores a rank's threads keep to, and whether a waiting thread works for other ranks."""

from __future__ import annotations

import torch

from weft.comm.base import Comm
from weft.comm.shm.arena import NoArenaError, SharedArena
from weft.comm.shm.shared_memory import SharedMemoryComm
from weft.comm.shm.stealing import check_asked, obstacle
from weft.ipc.messages import Setup
from weft.machine.cores import available_cores
from weft.native.step_library import Pool
from weft.ops.interface import Ops
from weft.ops.native.step_ops import StepOps
from weft.worker.runner import Runner


def limit_torch_threads(threads: int) -> None:
    """For torch's own operations."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)


def pin_threads(runner: Runner, comm: Comm, setup: Setup, arena: SharedArena | NoArenaError | None) -> str:
    """Pins the threads of step programs to the rank's cores, and lets the rank steal work while it waits, where that is
    asked for or possible; in words, for the log, which core steals, or why none does."""
    pinned, asked = _pinned(runner, bool(setup.cpus)), setup.world.engine.steal_work
    if pinned is not None:
        pinned[0].yield_core(setup.yields_core)
    program, met = runner.program is not None, isinstance(comm, SharedMemoryComm) and len({*setup.world.host_of}) < 2
    no_arena = str(arena) if isinstance(arena, NoArenaError) else None
    why_not = obstacle(
        comm.world,
        shared_memory=met,
        program=program,
        own_cores=pinned is not None,
        cp=setup.world.layout.attention.cp,
        no_arena=no_arena,
    )
    check_asked(asked, why_not)
    if asked is False or comm.world == 1 or setup.world.engine.device != "cpu":
        return ""
    if (
        why_not is not None
        or pinned is None
        or not isinstance(arena, SharedArena)
        or not isinstance(comm, SharedMemoryComm)
    ):
        return f"; no work stealing: {why_not}"
    pool, core = pinned
    pool.publish(comm.team_port(), arena.take(pool.queue_bytes))
    comm.start_stealing(pool.steal_function)
    return f"; cpu {core} steals work while this rank waits"


def unshare_threads(ops: Ops) -> None:
    """Other ranks steal no more of this one's work."""
    if isinstance(ops, StepOps):
        ops.pool.unpublish()


def _pinned(runner: Runner, own_cores: bool) -> tuple[Pool, int] | None:
    """The pinned threads and the caller's core; None: no thread is pinned.

    Where steps run as a program, its threads are the rank's only busy ones: each has a core, and torch does the rest
    (sampling with penalties) on the caller's. Ranks that share cores would all take the same first ones: there the
    system places the threads.
    """
    if runner.program is None or not isinstance(runner.ops, StepOps):
        return None
    torch.set_num_threads(1)
    cores, pool = [core[0] for core in available_cores()], runner.ops.pool
    if not own_cores or len(cores) < pool.threads:
        return None
    pool.pin(cores)
    return pool, cores[0]
