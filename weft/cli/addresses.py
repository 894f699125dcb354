"""A limit of a process's addresses (`ulimit -v`) that is too low for a command, said in one line. Knows no command, and
imports nothing that takes much of them.

What ranks take is planned before they start (`weft.launch_plan.memory`); this is for what libraries take as they are
loaded, some of which end the process themselves where they do not get it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from weft.errors import ConfigError

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_REFUSED = ("failed to map segment", "cannot allocate memory", "can't start new thread")
"""What a loader, the system and Python say."""


def check(needed: int) -> None:
    """ConfigError: fewer than `needed` MiB are allowed."""
    limit = _limit()
    if limit is not None and limit < needed << 20:
        raise too_low(f"this command takes about {needed} MiB (ulimit -v {needed << 10}) before it does anything")


def too_low(why: str) -> ConfigError:
    """What there is to say of the limit."""
    limit = (_limit() or 0) >> 10
    return ConfigError(
        f"the limit of addresses (ulimit -v {limit}) is too low: {why}; raise it", field="ulimit -v", value=limit
    )


def explained(error: BaseException) -> ConfigError | None:
    """In place of an error that there would not be without the limit; None for others."""
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
    """While numpy is imported: under a limit its library gets one thread. Each other takes 40 MiB of addresses, and a
    command multiplies nothing with it."""
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
