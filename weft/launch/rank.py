"""A rank's main loop: load, make the cache, warm up, then run every step it is told to. Knows no scheduler.

An error ends the rank; `worker` tells the supervisor why, which ends the other ranks.
"""

from __future__ import annotations

import gc
import time

import torch

from weft.arch.shards import Shards
from weft.checkpoint import Checkpoint
from weft.errors import PeerError
from weft.launch.backends import make_comm
from weft.launch.channel import Channel, ChannelClosed
from weft.launch.memory import size
from weft.launch.messages import (
    Allocate,
    Entered,
    Loaded,
    RunStep,
    Setup,
    Shutdown,
    StepDone,
    pack,
    unpack_for_rank,
)
from weft.launch.numbers import torch_dtype
from weft.launch.phases import Phase
from weft.launch.status import StatusPage, StatusWriter
from weft.layout.ranks import describe
from weft.log import configure
from weft.ops import make_ops
from weft.ops.base import Numerics
from weft.weights.loader import load_params
from weft.worker.runner import Limits, Runner


def serve(setup: Setup, channel: Channel, status_fd: int) -> None:
    """Runs until told to shut down. ChannelClosed: the supervisor is gone."""
    configure(describe(setup.layout, setup.rank))
    status = StatusPage(status_fd, setup.layout.world).writer(setup.rank)
    device = torch.device(setup.engine.device, setup.rank) if setup.engine.device == "cuda" else torch.device("cpu")
    torch.set_num_threads(setup.threads)
    torch.set_num_interop_threads(1)
    shards = Shards(setup.config, setup.layout)

    _enter(Phase.LOAD, channel, status, f"weights, {setup.engine.dtype}")
    numerics = Numerics(torch_dtype(setup.engine.dtype))
    checkpoint = Checkpoint.from_table(setup.checkpoint)
    start = time.monotonic()
    loaded = load_params(checkpoint, shards.specs, shards, setup.rank, numerics.dtype, device)
    took = time.monotonic() - start
    channel.send(pack(Loaded(loaded.bytes_read, _free_bytes(device))))

    _enter(Phase.GROUPS, channel, status, f"read {size(loaded.bytes_read)} in {took:.2f} s; {setup.comm}")
    comm = make_comm(setup, shards)
    try:
        allocate = _allocation(channel)
        _enter(Phase.CACHE, channel, status, f"{allocate.num_blocks} blocks of {setup.engine.block_size} tokens")
        limits = Limits(allocate.num_blocks, setup.engine.block_size, setup.engine.max_num_seqs, allocate.max_model_len)
        ops = make_ops(numerics, device)
        runner = Runner(shards, loaded.params, comm, ops, limits, device, setup.eos_token_ids)
        _enter(Phase.WARM_UP, channel, status, ops.describe())
        invariance = runner.warm_up()
        # What exists now lives as long as the process: later collections need not look at it.
        gc.collect()
        gc.freeze()
        _enter(Phase.READY, channel, status, str(invariance))
        _steps(runner, channel, status)
    finally:
        comm.close()


def _steps(runner: Runner, channel: Channel, status: StatusWriter) -> None:
    number = 0
    while True:
        message = unpack_for_rank(channel.receive())
        if isinstance(message, Shutdown):
            return
        if not isinstance(message, RunStep):
            raise PeerError(f"expected a step, got {type(message).__name__}")
        number += 1
        status.step(number, busy=True)
        sampled = runner.step(message.plan)
        status.step(number, busy=False)
        if runner.reports:
            channel.send(pack(StepDone(message.plan.index, sampled)))


def _enter(phase: Phase, channel: Channel, status: StatusWriter, detail: str) -> None:
    status.phase(phase)
    channel.send(pack(Entered(phase, detail)))


def _allocation(channel: Channel) -> Allocate:
    message = unpack_for_rank(channel.receive())
    if isinstance(message, Shutdown):
        raise ChannelClosed("told to shut down while starting")
    if not isinstance(message, Allocate):
        raise PeerError(f"expected the size of the cache, got {type(message).__name__}")
    return message


def _free_bytes(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
