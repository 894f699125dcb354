"""A rank's process after its setup has come: build the rank step by step, then run every step of the engine.

An error ends the rank; `main` sends the reason to the supervisor, which ends the other ranks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack

from weft.base.errors import PeerError
from weft.base.log import configure
from weft.base.machine.memory_trim import keep_all
from weft.compute.comm.metered import MeteredComm
from weft.compute.sampling.grammar_masks import grammar_masks
from weft.parallel.arch.shards import Shards
from weft.runtime.ipc.channel import Channel
from weft.runtime.ipc.fingerprint import joined
from weft.runtime.ipc.messages import (
    Allocate,
    CompileGrammars,
    CountExperts,
    ExpertsCounted,
    GrammarsCompiled,
    Loaded,
    Recorded,
    RunStep,
    Setup,
    Shutdown,
    StartSteps,
    StepDone,
    pack,
    unpack_for_rank,
)
from weft.runtime.ipc.phases import Phase
from weft.runtime.ipc.status import RankStatus, StatusPage
from weft.runtime.worker.build import (
    StartupReporter,
    capacity_of,
    connect,
    device_of,
    free_bytes,
    load_weights,
    make_rank_ops,
    next_message,
)
from weft.runtime.worker.following import DecodeFrames
from weft.runtime.worker.runner import Runner
from weft.runtime.worker.threads import limit_torch_threads, pin_threads


def serve(setup: Setup, channel: Channel, status_fd: int, comm_fds: Sequence[int]) -> None:
    """The rank's whole life after `setup`. Returns at `Shutdown`. ChannelClosed: the supervisor is gone."""
    configure(setup.where)
    page = StatusPage(status_fd, setup.world.layout.world)
    report = StartupReporter(setup, channel, page.writer(setup.rank))
    device = device_of(setup)
    limit_torch_threads(setup.threads)
    shards = Shards(setup.world.config, setup.world.layout, setup.world.slot_maps)

    report.enter(Phase.SETTINGS)
    channel.send(pack(joined(setup)))

    report.enter(Phase.LOAD, f"weights, {setup.world.engine.dtype}")
    ops = make_rank_ops(setup, device)
    weights = load_weights(setup, shards, ops, device)
    channel.send(pack(Loaded(weights.bytes_read, free_bytes(device, setup.world.engine.ranks_per_device))))

    report.enter(Phase.GROUPS, f"{weights}; {setup.world.comm}")
    comm = MeteredComm(connect(setup, shards, report, comm_fds))
    with ExitStack() as closing:  # in the reverse order
        closing.callback(comm.close)
        allocate = next_message(channel, Allocate)

        report.enter(Phase.CACHE, f"{allocate.num_blocks} blocks of {setup.world.engine.tokens_per_block} tokens")
        capacity, eager = capacity_of(setup, allocate), setup.world.engine.enforce_eager
        cpus = os.sched_getaffinity(0)
        masks = grammar_masks(setup.world.vocabulary, shards.config.vocab_size, cpus)
        closing.callback(masks.close)
        runner = Runner(shards, weights.params, comm, ops, capacity, device, setup.world.eos_token_ids, eager, masks)
        channel.send(pack(Recorded("" if runner.program else runner.why_eager)))
        runner.start_steps(next_message(channel, StartSteps).why_eager)
        pin_threads(runner, setup)

        report.enter(Phase.WARM_UP, f"{ops.describe()}; steps run as {runner.describe()}")
        invariance = runner.warm_up()
        keep_all()
        report.status.held(*runner.held())
        prefault = runner.prefault(lambda: _steps_of(page.read(setup.rank)), cpus)
        if prefault is not None:
            closing.callback(prefault.close)
            prefault.start()

        masks.prepare()
        report.enter(Phase.READY, str(invariance))
        _steps(runner, report, comm)


def _steps(runner: Runner, report: StartupReporter, comm: MeteredComm) -> None:
    """Runs steps until `Shutdown`."""
    ranks, ids, samples = runner.shards.layout.stage_size, runner.ids.record, runner.pipeline.last
    frames = DecodeFrames(
        report.channel, report.status, runner.limits, ids, ranks, reports=runner.reports, samples=samples
    )
    number = busy_ns = 0
    before = _work(runner, comm)
    while True:
        ran = False
        if not report.faults:  # they are counted in Python
            ran = runner.follow(frames.record)
            number, busy_ns = number + frames.record.steps, busy_ns + frames.record.busy_ns
        message = unpack_for_rank(report.channel.receive())
        if isinstance(message, Shutdown):
            return
        if isinstance(message, CountExperts):
            report.channel.send(pack(ExpertsCounted(runner.experts.counts().tobytes())))
            continue
        if isinstance(message, CompileGrammars):
            compiled = runner.sampler.grammars.compile_ahead(message.texts, needed=runner.pipeline.last)
            report.channel.send(pack(GrammarsCompiled(compiled)))
            continue
        if not isinstance(message, RunStep):
            raise PeerError(f"expected a step, got {type(message).__name__}")
        plan, number = message.plan, number + 1
        report.status.step(number, busy=True)
        report.faults.reach("step")
        if plan.experts is not None:
            report.faults.reach("switch" if plan.experts.switches else "move")
        began = time.perf_counter_ns()
        result = runner.choose(plan) if ran else runner.step(plan)
        busy_ns += time.perf_counter_ns() - began
        report.faults.reach("sampled")
        report.status.work(busy_ns, *(now - then for now, then in zip(_work(runner, comm), before, strict=True)))
        report.status.step(number, busy=False)
        if runner.reports:
            report.channel.send(pack(StepDone(plan.index, result)))


def _steps_of(status: RankStatus) -> tuple[int, bool]:
    return status.step, status.busy


def _work(runner: Runner, comm: MeteredComm) -> tuple[int, int, int, int]:
    return runner.rows, comm.seconds_ns, comm.received, comm.stage_wait_ns
