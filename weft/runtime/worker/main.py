"""The first lines of a rank's process: tied to its parent before torch is loaded.

Run as `python -m weft.runtime.worker.main CONTROL_FD LIFELINE_FD PARENT_PID BY_SIGNAL`. Its setup may
come much later: it imports meanwhile what all ranks need.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

from weft.base.deaths import Death
from weft.base.errors import PeerError, WeftError
from weft.base.machine import task_limits
from weft.base.machine.fd_limits import raise_limit
from weft.base.machine.memory_trim import not_collected
from weft.base.machine.parent_death import tie_to_parent
from weft.runtime.ipc.channel import Channel, ChannelClosed
from weft.runtime.ipc.messages import Setup, failure_of, pack, unpack_for_rank


def main(arguments: list[str]) -> int:
    """The rank's whole life; its exit code."""
    control_fd, lifeline_fd, parent_pid, by_signal = (int(word) for word in arguments)
    tie_to_parent(parent_pid, lifeline_fd, by_signal=bool(by_signal))
    raise_limit()
    channel = Channel.of_fd(control_fd)
    try:
        with ThreadPoolExecutor(1) as pool:
            # In a thread: the sender of the setup, a megabyte for many tensors, does not wait for the import.
            setup_and_fds = pool.submit(_receive_setup, channel)
            # Loaded here and not at the top, so that a second of importing torch is not a second without a lifeline.
            with not_collected():
                rank = importlib.import_module("weft.runtime.worker.rank")
            setup, (status_fd, *comm_fds) = setup_and_fds.result()
        _begin(setup)
        rank.serve(setup, channel, status_fd, comm_fds)
    except ChannelClosed:
        return PeerError.exit_code
    except WeftError as error:
        return _report(error, channel, error.exit_code)
    except MemoryError as error:
        message = f"the system gives the rank no memory ({error}); lower --max-num-batched-tokens or --kv-cache-memory"
        lack = PeerError(message)
        lack.death = Death.EXCEPTION  # the rows of the step asked for the memory
        return _report(lack, channel, lack.exit_code)
    except Exception as error:  # whatever it is, the supervisor must hear of it before this process ends
        if (limited := task_limits.explained(error)) is not None:
            return _report(limited, channel, limited.exit_code)
        with contextlib.suppress(OSError):  # a log that cannot be written must not hide the reason
            traceback.print_exc()
        return _report(error, channel, WeftError.exit_code)
    return 0


def _receive_setup(channel: Channel) -> tuple[Setup, list[int]]:
    """The setup; descriptors of the status page and of the collectives."""
    fds = channel.receive_fds()
    setup = unpack_for_rank(channel.receive())
    if not isinstance(setup, Setup):
        raise PeerError(f"expected a setup, got {type(setup).__name__}")
    return setup, fds


def _begin(setup: Setup) -> None:
    os.environ.update(setup.environ)
    if setup.cpus:
        # Before torch runs anything: threads that it makes inherit the affinity.
        os.sched_setaffinity(0, setup.cpus)


def _report(error: Exception, channel: Channel, code: int) -> int:
    try:
        channel.send(pack(failure_of(error)), timeout_s=5.0)
    except (OSError, PeerError):
        return PeerError.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
