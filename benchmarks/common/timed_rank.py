"""A rank's process whose step program times its instructions: what `step_profile.py` starts several of.

    python -m benchmarks.common.timed_rank CONTROL_FD LIFELINE_FD PARENT_PID BY_SIGNAL

The file of this process in $WEFT_STEP_TIMES has a line with the operation of every instruction, then a line for each
step, also one that would run without Python: their microseconds.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.step_subject import labels_of
from weft.base.step.plan import RankPlan
from weft.compute.native.runtime_records import FollowingRecord
from weft.runtime.worker.main import main
from weft.runtime.worker.runner import Runner

PLACE = "WEFT_STEP_TIMES"


def times_of(pid: int) -> Path:
    """The file of a rank's process."""
    return Path(os.environ[PLACE]) / f"{pid}.jsonl"


def _timed(file: Any) -> None:
    """From now on every runner of this process writes what its steps took."""
    plain, printed = Runner.step, False

    def step(runner: Runner, plan: RankPlan) -> Any:
        nonlocal printed
        if not printed:
            file.write(json.dumps(labels_of(runner)) + "\n")
            printed = True
        program = runner.program and runner.program.program
        if program is not None:
            program.profile(True)
        result = plain(runner, plan)
        file.write(json.dumps([] if program is None else program.spent_us()) + "\n")
        file.flush()
        return result

    def follow(runner: Runner, following: FollowingRecord) -> bool:
        following.steps = following.busy_ns = 0
        return False

    Runner.step, Runner.follow = step, follow  # type: ignore[method-assign]


if __name__ == "__main__":
    with times_of(os.getpid()).open("w") as file:
        _timed(file)
        code = main(sys.argv[1:])
    sys.exit(code)
