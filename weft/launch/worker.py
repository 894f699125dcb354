"""The first lines of a rank's process: tied to its parent and pinned to its cores before torch is loaded.

Run as `python -m weft.launch.worker CONTROL_FD STATUS_FD LIFELINE_FD PARENT_PID BY_SIGNAL`.
"""

from __future__ import annotations

import importlib
import os
import sys

from weft.launch.channel import Channel
from weft.launch.lifeline import tie_to_parent
from weft.launch.messages import Setup, unpack_for_rank


def main(arguments: list[str]) -> int:
    """The rank's whole life; its exit code."""
    control_fd, status_fd, lifeline_fd, parent_pid, by_signal = (int(word) for word in arguments)
    tie_to_parent(parent_pid, lifeline_fd, by_signal=bool(by_signal))
    channel = Channel.of_fd(control_fd)
    setup = unpack_for_rank(channel.receive())
    if not isinstance(setup, Setup):
        return 70
    if setup.cpus:
        # Before torch: threads that it makes inherit the affinity.
        os.sched_setaffinity(0, setup.cpus)
    # Loaded here and not at the top, so that a second of importing torch is not a second without a lifeline.
    serve = importlib.import_module("weft.launch.rank").serve
    return int(serve(setup, channel, status_fd))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
