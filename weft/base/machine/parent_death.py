"""A child must not outlive its parent: PR_SET_PDEATHSIG, the parent's pid, and a pipe that only the parent holds open.

The signal is bound to the thread that forked, so it is asked for only where that was the parent's main thread; the pipe
covers every other case.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading

_PR_SET_PDEATHSIG = 1
ORPHANED = 69


def tie_to_parent(parent_pid: int, pipe_fd: int, *, by_signal: bool) -> None:
    """From here on this process ends when process `parent_pid`, the holder of the other end of `pipe_fd`, does."""
    if by_signal:
        _ask_for_signal(signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(ORPHANED)
    threading.Thread(target=_end_with_pipe, args=(pipe_fd,), name="lifeline", daemon=True).start()


def end_with_parent(number: int) -> None:
    """From here on this process, which its parent's main thread started, is sent the signal when its parent ends."""
    parent = os.getppid()
    _ask_for_signal(number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def _ask_for_signal(number: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def _end_with_pipe(pipe_fd: int) -> None:
    """Nothing is ever written: the read returns when the last writer, the parent, is gone."""
    os.read(pipe_fd, 1)
    os._exit(ORPHANED)
