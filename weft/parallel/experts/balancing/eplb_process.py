"""EplbProcess: plans placements in a process of its own, so that neither steps nor requests wait for a plan.

Input and output are anonymous files, so neither side ever waits for the other to read.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import asdict

import numpy as np

from weft.base.errors import PeerError, WeftError
from weft.base.machine.interpreter import finding_weft, runs
from weft.parallel.experts.balancing.balancer import LoadBalancer
from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.statistics.loads import FloatArray

PROGRAM = runs("weft.parallel.experts.balancing.eplb_worker")
LIMIT_S = 300.0
"""Seconds after which planning is cancelled."""


class EplbProcess:
    """A `PlacementPlanner` that starts one process for each plan."""

    def __init__(self, balancer: LoadBalancer, program: tuple[str, ...] = PROGRAM) -> None:
        self._balancer, self._program = balancer, program
        self._process: subprocess.Popen[bytes] | None = None
        self._answer = self._lifeline = -1
        self._began = 0.0

    def start(self, loads: FloatArray, current: ExpertPlacement) -> None:
        """Starts a process; ends one that still runs."""
        self.close()
        asked = {
            "shape": asdict(self._balancer.shape),
            "policy": self._balancer.policy,
            "max_moved": self._balancer.max_moved,
            "loads": loads.tolist(),
            "phy2log": current.phy2log.tolist(),
        }
        read_end, self._lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            self._answer = os.memfd_create("weft-placement", os.MFD_CLOEXEC)
            with os.fdopen(os.memfd_create("weft-loads", os.MFD_CLOEXEC), "w+") as question:
                json.dump(asked, question)
                question.flush()
                question.seek(0)
                self._process = subprocess.Popen(
                    [*self._program, str(read_end), str(os.getpid())],
                    stdin=question,
                    stdout=self._answer,
                    pass_fds=(read_end,),
                    env=finding_weft(os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}),
                    process_group=0,
                )
                _give_way(self._process.pid)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(read_end)
        self._began = time.monotonic()

    def poll(self) -> ExpertPlacement | None:
        """The plan, once, when it is ready. WeftError: planning failed."""
        if self._process is None:
            raise PeerError("no placement is being planned")
        code = self._process.poll()
        if code is None and time.monotonic() - self._began < LIMIT_S:
            return None
        try:
            return self._read(code)
        finally:
            self.close()

    def _read(self, code: int | None) -> ExpertPlacement:
        if code is None:
            raise PeerError(f"the plan of a placement took more than {LIMIT_S:g} s")
        with open(self._answer, "rb", closefd=False) as file:
            file.seek(0)
            text = file.read()
        try:
            said = json.loads(text)
            if "error" in said:
                raise WeftError(said["error"])
            table = np.array(said["phy2log"], dtype=np.int64)
        except (ValueError, KeyError, TypeError):
            raise PeerError(f"the process that plans placements ended with code {code} and no plan") from None
        return ExpertPlacement(table, self._balancer.shape.experts, self._balancer.shape.ranks)

    def close(self) -> None:
        """Ends the process; safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=60)
        for fd in (self._answer, self._lifeline):
            if fd >= 0:
                os.close(fd)
        self._answer = self._lifeline = -1


def _give_way(pid: int) -> None:
    """Gives the process the lowest normal priority, before it has imported anything."""
    try:
        os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, pid, 19)
    except ProcessLookupError:
        return  # it has ended; `poll` says why
