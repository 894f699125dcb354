"""Limits of the system that a process sets for itself: never above what it inherited."""

from __future__ import annotations

import resource


def lower(kind: int, soft: int, hard: int = resource.RLIM_INFINITY) -> None:
    """Sets a limit of `setrlimit` to the least of what is wanted and what is inherited."""
    inherited_soft, inherited_hard = resource.getrlimit(kind)
    hard = least(hard, inherited_hard)
    resource.setrlimit(kind, (least(soft, inherited_soft, hard), hard))


def least(*limits: int) -> int:
    """The smallest of limits, of which some may be RLIM_INFINITY."""
    finite = [each for each in limits if each != resource.RLIM_INFINITY]
    return min(finite, default=resource.RLIM_INFINITY)
