"""Causes of a rank's death, and which of them the rows of a step can have brought about.

docs/faults.md shows this table; `frontend/serving/recovery` acts on it.
"""

from __future__ import annotations

from enum import StrEnum


class Death(StrEnum):
    """Causes that a supervisor can tell apart; the value is shown to people."""

    EXCEPTION = "a rank raised an error of its own, or called another collective than its peers"
    CRASH = "SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT ended a rank"
    BUSY = "a rank ran past the step limit while it used its processor"
    OUT_OF_MEMORY = "SIGKILL ended a rank, and the system counted an out-of-memory kill"
    KILLED = "another signal, or SIGKILL without such a count, ended a rank"
    SUSPENDED = "a rank was suspended (SIGSTOP) past the step limit"
    LATE = "a rank did not answer within the step limit, without using its processor"
    LINK = "a connection between ranks broke, or a rank gave up on another one"
    HOST = "a host was lost with its ranks"


BLAMED = frozenset((Death.EXCEPTION, Death.CRASH, Death.BUSY, Death.OUT_OF_MEMORY))
"""Causes for which the requests of the step become suspects. A signal of a crash that somebody sends from outside
cannot be told from the rank's own."""


def may_blame(error: BaseException) -> bool:
    """Whether the requests of the step in which `error` ended the ranks may have caused it."""
    return getattr(error, "death", Death.EXCEPTION) in BLAMED
