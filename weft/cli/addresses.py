"""Checks the limit of a process's address space (`ulimit -v`) before a command imports its libraries.

Memory of ranks is planned before they start (`weft.runtime.launch_plan.memory`). This module is for libraries, some of
which end the process when they cannot be mapped; so it imports nothing large.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from weft.base.errors import ConfigError

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_REFUSED = ("failed to map segment", "cannot allocate memory", "can't start new thread")
"""Error texts of the dynamic loader, the system and Python."""


def check(needed: int) -> None:
    """ConfigError: fewer than `needed` MiB are allowed."""
    limit = _limit()
    if limit is not None and limit < needed << 20:
        raise too_low(f"this command takes about {needed} MiB (ulimit -v {needed << 10}) before it does anything")


def too_low(why: str) -> ConfigError:
    """An error that names the limit and the reason."""
    limit = (_limit() or 0) >> 10
    return ConfigError(
        f"the limit of addresses (ulimit -v {limit}) is too low: {why}; raise it", field="ulimit -v", value=limit
    )


def explained(error: BaseException) -> ConfigError | None:
    """The error to show if the limit is the cause of `error`; None for other errors."""
    if _limit() is None:
        return None
    seen: BaseException | None = error
    while seen is not None:
        refused = isinstance(seen, OSError | ImportError | RuntimeError) and any(map(str(seen).lower().count, _REFUSED))
        if refused or isinstance(seen, MemoryError):
            return too_low("none are left for what was asked for")
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def sparing() -> Iterator[None]:
    """While numpy is imported: under a limit its BLAS library gets one thread. Each other thread reserves 40 MiB of
    address space, and commands do not use BLAS."""
    if _limit() is None or _BLAS_THREADS in os.environ:
        yield
        return
    os.environ[_BLAS_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_BLAS_THREADS]


def _limit() -> int | None:
    """Bytes; None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit
