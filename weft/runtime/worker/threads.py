"""Which cores a rank's threads keep to."""

from __future__ import annotations

import torch

from weft.base.machine.cores import available_cores
from weft.compute.ops.native.step_ops import StepOps
from weft.runtime.ipc.messages import Setup
from weft.runtime.worker.runner import Runner


def limit_torch_threads(threads: int) -> None:
    """For torch's own operations."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)


def pin_threads(runner: Runner, setup: Setup) -> None:
    """Pins the threads of step programs to the rank's cores.

    Where steps run as a program, its threads are the rank's only busy ones: each has a core, and torch does the rest
    (sampling with penalties) on the caller's. Ranks that share cores would all take the same first ones: there the
    system places the threads.
    """
    if runner.program is None or not isinstance(runner.ops, StepOps):
        return
    torch.set_num_threads(1)
    cores, pool = [core[0] for core in available_cores()], runner.ops.pool
    if setup.cpus and len(cores) >= pool.threads:
        pool.pin(cores)
        pool.yield_core(setup.yields_core)
