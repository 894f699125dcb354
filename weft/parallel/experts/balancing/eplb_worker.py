"""A process that plans one placement: loads on standard input, the expert of each slot on standard output, JSON both.

Run as `python -m weft.parallel.experts.balancing.eplb_worker LIFELINE_FD PARENT_PID`.
Its parent lowers its priority: ranks need the cores.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from weft.base.errors import WeftError
from weft.base.machine.parent_death import tie_to_parent
from weft.parallel.experts.balancing.balancer import LoadBalancer
from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.placement.shape import SlotShape


def main(arguments: list[str]) -> int:
    """0 with a plan, else what went wrong on standard output."""
    lifeline_fd, parent_pid = (int(word) for word in arguments)
    tie_to_parent(parent_pid, lifeline_fd, by_signal=False)
    asked = json.load(sys.stdin)
    shape = SlotShape(**asked["shape"])
    balancer = LoadBalancer(shape, asked["policy"], asked["max_moved"])
    current = ExpertPlacement(np.array(asked["phy2log"], dtype=np.int64), shape.experts, shape.ranks)
    try:
        plan = balancer.plan(np.array(asked["loads"], dtype=np.float64), current)
    except WeftError as error:
        json.dump({"error": str(error)}, sys.stdout)
        return error.exit_code
    json.dump({"phy2log": plan.placement.phy2log.tolist()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
