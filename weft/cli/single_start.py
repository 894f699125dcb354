"""Commands that run once, in one process of each host."""

from __future__ import annotations

import os
from collections.abc import Mapping

from weft.base.errors import UsageError

_ONCE = "run the command once, with --tp N; on several hosts once on each, with --nnodes and --node-rank"
_TASKS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")


def refuse_several_starts(environ: Mapping[str, str] = os.environ) -> None:
    """UsageError: torchrun, or a launcher like it, starts this command several times; each would start all ranks."""
    several = environ.get("WORLD_SIZE", "1") not in ("", "1") and "LOCAL_RANK" in environ
    if several or "TORCHELASTIC_RUN_ID" in environ:
        raise UsageError(
            "weft starts its ranks itself, and torchrun would start all of them again in each of its processes: "
            + _ONCE
        )
    tasks = next((environ[name] for name in _TASKS if environ.get(name)), "1")
    if "SLURM_STEP_ID" in environ and tasks != "1":
        raise UsageError(
            f"weft starts its ranks itself, and srun starts all of them again in each of its {tasks} tasks: {_ONCE}"
        )
