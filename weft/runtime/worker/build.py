"""The build steps of a rank, in the order in which `rank.serve` takes them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from weft.base import env
from weft.base.errors import PeerError
from weft.base.machine.devices import too_few
from weft.base.plural import size
from weft.compute.comm.backend import RankEnd
from weft.compute.comm.base import Comm
from weft.compute.comm.groups import groups_of
from weft.compute.comm.registry import backend_named
from weft.compute.comm.staged import StagedComm
from weft.compute.native.step_library import SPIN_ALONE_NS, SPIN_SHARED_NS
from weft.compute.ops import make_ops
from weft.compute.ops.interface import Ops
from weft.model.checkpoint import Checkpoint
from weft.model.layers import Params, Prepare
from weft.model.weights.loader import load_params
from weft.parallel.arch.shards import Shards
from weft.runtime.ipc.channel import Channel, ChannelClosed
from weft.runtime.ipc.messages import Allocate, Entered, Setup, Shutdown, StartSteps, pack, unpack_for_rank
from weft.runtime.ipc.phases import Phase
from weft.runtime.ipc.status import StatusWriter
from weft.runtime.worker.comm_wrappers import FaultyComm, RecordedComm
from weft.runtime.worker.faults import Faults, parse_faults
from weft.runtime.worker.numerics import numerics_of
from weft.runtime.worker.runner import RankCapacity


class StartupReporter:
    """Sends each start-up phase to the supervisor, and writes it to the status page."""

    def __init__(self, setup: Setup, channel: Channel, status: StatusWriter) -> None:
        self.channel, self.status = channel, status
        self.faults = Faults(parse_faults(env.faults()), setup.world.first_rank + setup.rank, setup.world.start)

    def enter(self, phase: Phase, detail: str = "") -> None:
        """The rank is in `phase` from now on."""
        self.status.phase(phase)
        self.channel.send(pack(Entered(phase, detail)))
        self.faults.reach(phase)


def device_of(setup: Setup) -> torch.device:
    """The CPU, or this rank's CUDA device. ConfigError: there are too few devices."""
    if setup.world.engine.device != "cuda":
        return torch.device("cpu")
    number, count = setup.local // setup.world.engine.ranks_per_device, torch.cuda.device_count()
    if number >= count:
        raise too_few(count, torch.__version__, setup.where, setup.world.engine.ranks_per_device)
    torch.cuda.set_device(number)  # of this process, which is one rank: kernels and graphs go where it says
    return torch.device("cuda", number)


def make_rank_ops(setup: Setup, device: torch.device) -> Ops:
    spin_ns = SPIN_ALONE_NS if setup.cpus else SPIN_SHARED_NS
    partial = setup.world.layout.kv_owners > 1
    return make_ops(numerics_of(setup.world.engine), device, spin_ns=spin_ns, partial=partial)


Start = TypeVar("Start", Allocate, StartSteps)
"""A message of the supervisor that a rank waits for while it starts."""


@dataclass(frozen=True, slots=True)
class RankWeights:
    """A rank's parameters; what was read for them, and in how many seconds."""

    params: Params
    bytes_read: int
    seconds: float

    def __str__(self) -> str:
        return f"read {size(self.bytes_read)} in {self.seconds:.2f} s"


def load_weights(setup: Setup, shards: Shards, ops: Ops, device: torch.device) -> RankWeights:
    """Reads this rank's slices of the checkpoint. CheckpointError."""
    began = time.monotonic()
    checkpoint, prepare = Checkpoint.from_table(setup.checkpoint), Prepare(ops, shards, setup.rank)
    dtype = ops.numerics.dtype
    loaded = load_params(checkpoint, shards.specs, shards, setup.rank, dtype, device, prepare=prepare)
    return RankWeights(loaded.params, loaded.bytes_read, time.monotonic() - began)


def free_bytes(device: torch.device, sharing: int) -> int | None:
    """What a rank's device leaves each of `sharing` ranks; the last of them to load sees what all have loaded."""
    return torch.cuda.mem_get_info(device)[0] // sharing if device.type == "cuda" else None


def connect(setup: Setup, shards: Shards, report: StartupReporter, fds: Sequence[int]) -> Comm:
    """This rank's end of the collectives, once the other ranks are there. `fds`, from the supervisor's rendezvous, are
    closed. PeerError: a rank did not come."""
    groups, backend = groups_of(shards), backend_named(setup.world.comm)
    world, device = setup.world.layout.world, setup.world.engine.device
    end = RankEnd(
        setup.rank,
        world,
        groups,
        fds,
        setup.world.comm_limit_s,
        setup.world.comm_debug,
        setup.world.host_of,
        setup.peers.addresses,
        setup.peers.token,
        setup.peers.own,
        setup.world.join_limit_s,
    )
    comm = backend.make(end)
    for fd in fds:
        os.close(fd)
    if not backend.keeps_records:
        comm = RecordedComm(comm, report.status, groups)
    comm = FaultyComm(comm, report.faults) if report.faults.at("collective") else comm
    return StagedComm(comm) if device != "cpu" and world > 1 else comm


def next_message(channel: Channel, wanted: type[Start]) -> Start:
    """Waits for a message of the start. ChannelClosed: the start was given up."""
    message = unpack_for_rank(channel.receive())
    if isinstance(message, Shutdown):
        raise ChannelClosed("shut down while starting")
    if not isinstance(message, wanted):
        raise PeerError(f"expected {wanted.__name__}, got {type(message).__name__}")
    return message


def capacity_of(setup: Setup, allocate: Allocate) -> RankCapacity:
    """What the rank allocates for."""
    return RankCapacity(
        allocate.num_blocks,
        setup.world.engine.tokens_per_block,
        setup.world.engine.max_num_seqs,
        allocate.max_model_len,
        setup.world.engine.tokens_per_step,
        staged_slots=setup.world.staged_slots,
        count_experts=setup.world.count_experts,
    )
