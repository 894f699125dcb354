"""Ranks as forked processes, for benchmarks of what they do together."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from weft.base.errors import WeftError


def of_first_rank(world: int, run: Callable[[int], Any]) -> Any:
    """What `run(0)` gives, as JSON has it; `run(rank)` runs in a process for each rank, on one thread, which keeps to a
    core of its own where there are enough. WeftError where a rank failed."""
    read, write = os.pipe()
    children = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            os._exit(_run_rank(rank, world, run, write))
        children.append(pid)
    os.close(write)
    with os.fdopen(read) as result:
        text = result.read()
    failed = [rank for rank, pid in enumerate(children) if os.waitpid(pid, 0)[1]]
    if failed:
        raise WeftError(f"ranks {failed} failed")
    return json.loads(text)


def _run_rank(rank: int, world: int, run: Callable[[int], Any], write: int) -> int:
    """The exit status."""
    try:
        torch.set_num_threads(1)
        if world <= len(cores := sorted(os.sched_getaffinity(0))):
            os.sched_setaffinity(0, {cores[rank]})
        found = run(rank)
        if rank == 0:
            with os.fdopen(write, "w") as out:
                json.dump(found, out)
    except BaseException:  # a fork must not go on in its parent's code, whatever happens
        traceback.print_exc(file=sys.stderr)
        return 1
    return 0
