"""A rank's main loop: load, make the cache, warm up, then run every step it is told to. Knows no scheduler.

An error ends the rank; `worker` tells the supervisor why, which ends the other ranks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch

from weft import env
from weft.arch.shards import Shards
from weft.checkpoint import Checkpoint
from weft.comm.base import Comm
from weft.comm.metered import MeteredComm
from weft.comm.shm.arena import NoRoomsError, Room
from weft.comm.shm.region import Region
from weft.comm.shm.shared_memory import SharedMemoryComm
from weft.comm.shm.stealing import MOST_LENDERS, check_asked, obstacle
from weft.errors import PeerError
from weft.ipc.channel import Channel, ChannelClosed
from weft.ipc.fingerprint import joined
from weft.ipc.messages import (
    Allocate,
    CountExperts,
    Entered,
    ExpertsCounted,
    Loaded,
    RunStep,
    Setup,
    Shutdown,
    pack,
    unpack_for_rank,
)
from weft.ipc.phases import Phase
from weft.ipc.status import RankStatus, StatusPage, StatusWriter
from weft.layers import Prepare
from weft.log import configure
from weft.machine.cores import available_cores
from weft.machine.devices import too_few
from weft.machine.memory_trim import keep_all
from weft.native.step_library import SPIN_ALONE_NS, SPIN_SHARED_NS, Pool
from weft.ops import make_ops
from weft.ops.pages import OWN_PAGES, RoomPages
from weft.ops.step_ops import StepOps
from weft.plural import size
from weft.weights.loader import load_params
from weft.worker.backends import make_comm
from weft.worker.faults import Faults, parse_faults
from weft.worker.following import PlanInHand
from weft.worker.numerics import numerics_of
from weft.worker.runner import Limits, Runner
from weft.worker.tensors.prefault import FirstWrites
from weft.worker.torch_import import import_rest


class _Way:
    """The rank's way through the phases: each is told to the supervisor and written to the status page."""

    def __init__(self, setup: Setup, channel: Channel, status: StatusWriter) -> None:
        self.channel, self.status = channel, status
        self.faults = Faults(parse_faults(env.faults()), setup.first_rank + setup.rank, setup.start)

    def enter(self, phase: Phase, detail: str = "") -> None:
        """From here on the rank is in `phase`."""
        self.status.phase(phase)
        self.channel.send(pack(Entered(phase, detail)))
        self.faults.reach(phase)


def _device(setup: Setup) -> torch.device:
    if setup.engine.device != "cuda":
        return torch.device("cpu")
    number, count = (setup.first_rank + setup.rank) // setup.engine.ranks_per_device, torch.cuda.device_count()
    if number >= count:
        raise too_few(count, torch.__version__, setup.where, setup.engine.ranks_per_device)
    torch.cuda.set_device(number)  # of this process, which is one rank: kernels and graphs go where it says
    return torch.device("cuda", number)


def serve(setup: Setup, channel: Channel, status_fd: int, comm_fds: Sequence[int]) -> None:
    """Runs until told to shut down. ChannelClosed: the supervisor is gone."""
    configure(setup.where)
    page = StatusPage(status_fd, setup.layout.world)
    way = _Way(setup, channel, page.writer(setup.rank))
    device = _device(setup)
    torch.set_num_threads(setup.threads)
    torch.set_num_interop_threads(1)
    shards = Shards(setup.config, setup.layout, setup.slot_maps)
    way.enter(Phase.SETTINGS)
    channel.send(pack(joined(setup)))

    way.enter(Phase.LOAD, f"weights, {setup.engine.dtype}")
    numerics = numerics_of(setup.engine)
    checkpoint = Checkpoint.from_table(setup.checkpoint)
    start = time.monotonic()
    own_cores = bool(setup.cpus)
    room = _room(setup, comm_fds)
    pages = RoomPages(room) if isinstance(room, Room) else OWN_PAGES
    ops = make_ops(numerics, device, spin_ns=SPIN_ALONE_NS if own_cores else SPIN_SHARED_NS, pages=pages)
    if not isinstance(ops, StepOps) or ops.moe_backend != "packed":
        import_rest()  # torch's own operations are all there is, or multiply experts
    prepare = Prepare(ops, shards, setup.rank)
    loaded = load_params(checkpoint, shards.specs, shards, setup.rank, numerics.dtype, device, prepare=prepare)
    took = time.monotonic() - start
    channel.send(pack(Loaded(loaded.bytes_read, _free_bytes(device, setup.engine.ranks_per_device))))

    way.enter(Phase.GROUPS, f"read {size(loaded.bytes_read)} in {took:.2f} s; {setup.comm}")
    comm = MeteredComm(make_comm(setup, shards, way.status, way.faults, comm_fds))
    first_writes: FirstWrites | None = None
    try:
        allocate = _allocation(channel)
        way.enter(Phase.CACHE, f"{allocate.num_blocks} blocks of {setup.engine.tokens_per_block} tokens")
        limits = _limits(setup, allocate)
        eager = setup.engine.enforce_eager
        runner = Runner(shards, loaded.params, comm, ops, limits, device, setup.eos_token_ids, eager)
        cpus = os.sched_getaffinity(0)
        lent = _settle(runner, comm.inner, setup, room)
        way.enter(Phase.WARM_UP, f"{ops.describe()}; steps run as {runner.describe()}{lent}")
        invariance = runner.warm_up()
        keep_all()
        way.status.held(*runner.held())
        first_writes = runner.first_writes(lambda: _steps_of(page.read(setup.rank)), cpus)
        if first_writes is not None:
            first_writes.start()
        way.enter(Phase.READY, str(invariance))
        _steps(runner, way, comm)
    finally:
        if first_writes is not None:
            first_writes.close()
        if isinstance(ops, StepOps):
            ops.pool.keep_to_itself()
        comm.close()


def _room(setup: Setup, comm_fds: Sequence[int]) -> Room | NoRoomsError | None:
    """The rank's room, where ranks may lend each other their cores, or what kept it from having one."""
    lends = setup.engine.lends and setup.comm == "shared_memory" and setup.layout.world <= MOST_LENDERS
    if not (lends and setup.cpus):
        return None
    try:
        return Room.enter(Region(comm_fds[0], setup.comm_bytes), setup.rank)
    except NoRoomsError as reason:
        return reason


def _settle(runner: Runner, comm: Comm, setup: Setup, room: Room | NoRoomsError | None) -> str:
    """Keeps threads to their cores, and lends one where that is asked for or can be; in words, which one is lent, or
    why none."""
    pinned, asked = _pinned(runner, bool(setup.cpus)), setup.engine.lend_cores
    if pinned is not None:
        pinned[0].make_way(setup.makes_way)
    program, met = runner.program is not None, isinstance(comm, SharedMemoryComm)
    no_room = str(room) if isinstance(room, NoRoomsError) else None
    why_not = obstacle(comm.world, shared_memory=met, program=program, own_cores=pinned is not None, no_room=no_room)
    check_asked(asked, why_not)
    if asked is False or comm.world == 1 or setup.engine.device != "cpu":
        return ""
    if why_not is not None or pinned is None or not isinstance(room, Room) or not isinstance(comm, SharedMemoryComm):
        return f"; no core is lent: {why_not}"
    pool, core = pinned
    pool.offer(comm.offering(), room.take(pool.queue_bytes))
    comm.lend(pool.help)
    return f"; cpu {core} is lent to ranks that this one waits for"


def _pinned(runner: Runner, own_cores: bool) -> tuple[Pool, int] | None:
    """Where steps run as a program, its threads are the rank's only busy ones: each keeps to a core of its own, and
    torch does what is left (sampling with penalties) on the caller's. Ranks that share cores would all take the same
    first ones: the system moves those. The threads and the caller's core; None where none is kept to."""
    if runner.program is None or not isinstance(runner.ops, StepOps):
        return None
    torch.set_num_threads(1)
    cores, pool = [core[0] for core in available_cores()], runner.ops.pool
    if not own_cores or len(cores) < pool.threads:
        return None
    pool.pin(cores)
    return pool, cores[0]


def _limits(setup: Setup, allocate: Allocate) -> Limits:
    return Limits(
        allocate.num_blocks,
        setup.engine.tokens_per_block,
        setup.engine.max_num_seqs,
        allocate.max_model_len,
        setup.engine.max_num_batched_tokens,
        staged_slots=setup.staged_slots,
        count_experts=setup.count_experts,
    )


def _steps(runner: Runner, way: _Way, comm: MeteredComm) -> None:
    """Until told to shut down."""
    groups = runner.shards.layout.attention.dp
    hand = PlanInHand(way.channel, way.status, runner.limits, groups, reports=runner.reports)
    number = busy_ns = 0
    before = _work(runner, comm)
    while True:
        ran = False
        if not way.faults:  # they are counted in Python
            ran = runner.follow(hand.record)
            number, busy_ns = number + hand.record.steps, busy_ns + hand.record.busy_ns
        if hand.wants_frame:
            message = unpack_for_rank(way.channel.receive())
            if isinstance(message, Shutdown):
                return
            if isinstance(message, CountExperts):
                way.channel.send(pack(ExpertsCounted(runner.experts.counts().tobytes())))
                continue
            if not isinstance(message, RunStep):
                raise PeerError(f"expected a step, got {type(message).__name__}")
            hand.take(message.plan)
        plan, number = hand.step, number + 1
        way.status.step(number, busy=True)
        way.faults.reach("step")
        if plan.experts is not None:
            way.faults.reach("switch" if plan.experts.switches else "move")
        began = time.perf_counter_ns()
        answer = hand.note(plan, runner.choose(plan) if ran else runner.step(plan))
        busy_ns += time.perf_counter_ns() - began
        way.faults.reach("sampled")
        way.status.work(busy_ns, *(now - then for now, then in zip(_work(runner, comm), before, strict=True)))
        way.status.step(number, busy=False)
        if runner.reports and answer is not None:
            way.channel.send(pack(answer))


def _steps_of(status: RankStatus) -> tuple[int, bool]:
    return status.step, status.busy


def _work(runner: Runner, comm: MeteredComm) -> tuple[int, int, int, int]:
    return runner.rows, comm.seconds_ns, comm.received, comm.lent_ns


def _allocation(channel: Channel) -> Allocate:
    message = unpack_for_rank(channel.receive())
    if isinstance(message, Shutdown):
        raise ChannelClosed("told to shut down while starting")
    if not isinstance(message, Allocate):
        raise PeerError(f"expected the size of the cache, got {type(message).__name__}")
    return message


def _free_bytes(device: torch.device, sharing: int) -> int | None:
    """What a rank's device leaves each of `sharing` ranks; the last of them to load sees what all have loaded."""
    return torch.cuda.mem_get_info(device)[0] // sharing if device.type == "cuda" else None
