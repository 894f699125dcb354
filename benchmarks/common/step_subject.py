"""One rank in this process, as a worker runs it, whose step program's instructions can be timed. An `Executor`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.common.step_timers import CallTimers, Timers, Timing
from weft.base.settings import EngineConfig
from weft.base.step.plan import StepPlan, StepResult
from weft.compute.comm.lockstep import LockstepWorld
from weft.compute.native.step_library import SPIN_ALONE_NS
from weft.compute.ops import Ops, make_ops
from weft.compute.ops.native.packed import PackedWeight
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.operations.dense import BIAS, WEIGHT
from weft.compute.ops.operations.table import Op
from weft.model.checkpoint import Checkpoint
from weft.model.layers import Prepare
from weft.model.program.ir import Instruction
from weft.model.program.program import StepProgram
from weft.model.weights.loader import load_params
from weft.model.weights.storage import weight_storage
from weft.parallel.arch.families import parse_config
from weft.parallel.arch.shards import Shards
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.rank_plans import RankPlans
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.numerics import numerics_of
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.runtime.worker.runner import Runner

AT_START = {"describe", "prepare", "prepare_slots", "prepare_heads", "prepare_blocks", "takes_blocks", "expert_weights"}
AT_START |= {"check_batch_invariance"}

AROUND = ("", "around the program", "inputs, sampling, around the program")
"""By the number of arguments: in a decode step C++ makes inputs and samples in the call that runs the program."""


@contextmanager
def cores_given_back() -> Iterator[None]:
    """A rank in this process keeps the thread that makes it to one core; after this the thread has its old cores."""
    cores = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


class OneRank:
    """The only rank of a layout of one, with `threads` threads on cores of their own."""

    def __init__(self, checkpoint: Checkpoint, settings: EngineConfig, threads: int, num_blocks: int) -> None:
        config = parse_config(checkpoint.config)
        shards = Shards(config, resolve({}, num_experts=config.num_experts))
        weight_storage(settings, checkpoint, shards.specs)  # refuses what contradicts itself, as every engine does
        numerics = numerics_of(settings)
        device, comm = torch.device("cpu"), LockstepWorld(1, ()).comms[0]
        torch.set_num_threads(threads)
        ops = make_ops(numerics, device, spin_ns=SPIN_ALONE_NS)
        params = load_params(
            checkpoint, shards.specs, shards, 0, numerics.dtype, device, prepare=Prepare(ops, shards, 0)
        ).params
        assert settings.max_model_len is not None
        limits = RankCapacity(num_blocks, settings.block_size, settings.max_num_seqs, settings.max_model_len)
        self.runner = Runner(shards, params, comm, ops, limits, device, (), settings.enforce_eager)
        self.layout, self.num_blocks, self._plans = shards.layout, num_blocks, RankPlans(1)
        if isinstance(ops, StepOps) and self.runner.program is not None:
            torch.set_num_threads(1)
            ops.pool.pin(sorted(os.sched_getaffinity(0)))
        self.runner.warm_up()

    def step(self, plan: StepPlan) -> StepResult:
        """Runs `plan`."""
        return StepResult(plan.index, [self.runner.step(*self._plans.split(plan))])

    def expert_counts(self) -> IntArray:
        """Rows that chose each expert since the last call."""
        return self.runner.experts.counts()

    def close(self) -> None:
        """Frees the program."""
        if self.runner.program is not None:
            self.runner.program.close()

    @property
    def kv_bytes(self) -> int:
        """Of a token's keys and values in all layers."""
        heads, dims = self.runner.shards.cache_shape(0)
        return len(self.runner.caches) * 2 * heads * dims * self.runner.caches[0].k.element_size()

    @property
    def weight_bytes(self) -> Counter[str]:
        """What each kind of instruction reads of weights."""
        found: Counter[str] = Counter()
        if self.runner.program is None:
            return found
        for label, instruction in zip(labels_of(self.runner), self.runner.program.program.instructions, strict=True):
            weight = instruction.tensors.get(WEIGHT)
            if instruction.op is Op.LINEAR and isinstance(weight, PackedWeight):
                found[label] += weight.nbytes
        return found

    def watch(self, timers: CallTimers) -> Timers:
        """From now on a step's parts are timed: by `timers`, and by the program where there is one."""
        timers.watch(self.runner.inputs, "build", lambda _: "inputs")
        for method in ("sample", "remember"):
            timers.watch(self.runner.sampler, method, lambda _: "sampling")
        if self.runner.program is None:
            names = _names(self.runner)
            for method in sorted(Ops.__abstractmethods__ - AT_START):
                timers.watch(self.runner.ops, method, _labeller(method, names))
            return timers
        if self.runner.decode is not None:
            timers.watch(self.runner.decode, "run", lambda _: "inputs")
        timers.watch(self.runner.program, "run", lambda args: AROUND[len(args)])
        return ProgramTimers(self.runner.program.program, labels_of(self.runner), timers)


def labels_of(runner: Runner) -> list[str]:
    """A label for each instruction of its step program; those of all layers that do the same have one."""
    names = _names(runner)
    return [] if runner.program is None else [_label(each, names) for each in runner.program.program.instructions]


def _names(runner: Runner) -> dict[int, str]:
    return {id(p): n.removeprefix("layers.").lstrip("0123456789.") for n, p in runner.params.items()}


def _label(instruction: Instruction, names: Mapping[int, str]) -> str:
    held = (names[id(one)] for index, one in instruction.tensors.items() if index != BIAS and id(one) in names)
    name = next(held, None)
    kind = instruction.op.name.lower()
    return kind if name is None else f"{kind} {name.removesuffix('.weight')}"


class ProgramTimers:
    """What a program counts, and what is timed around it."""

    def __init__(self, program: StepProgram, labels: list[str], around: CallTimers) -> None:
        self._program, self._labels, self._around = program, labels, around
        program.profile(True)

    def take(self) -> list[Timing]:
        """What ran since the last call."""
        inside = list(zip(self._labels, self._program.spent_us(), strict=True))
        self._program.profile(True)
        spent = sum(us for _, us in inside)
        around = [(name, us - spent if name in AROUND else us) for name, us in self._around.take()]
        return [*inside, *around] if spent else []


def _labeller(method: str, names: dict[int, str]) -> Callable[[tuple[Any, ...]], str]:
    def label(args: tuple[Any, ...]) -> str:
        matrix = next((names[id(one)] for one in args if id(one) in names), None)
        return method if matrix is None else f"{method} {matrix.removesuffix('.weight')}"

    return label
