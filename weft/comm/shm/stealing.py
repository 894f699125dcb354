"""What keeps ranks from lending each other their cores while they wait. Knows no process and no thread."""

from __future__ import annotations

from weft.errors import ConfigError

MOST_LENDERS = 16
"""Ranks of a region, up to which they lend cores to each other: each maps the rooms of all."""


def obstacle(
    ranks: int, *, shared_memory: bool, program: bool, own_cores: bool, no_room: str | None = None
) -> str | None:
    """Why no rank can lend a core; None where each can. `no_room`: why a rank has no room, which only itself knows."""
    if ranks == 1:
        return "one rank waits for no other"
    if not shared_memory:
        return "ranks do not meet in shared memory"
    if not program:
        return "steps are no program"
    if ranks > MOST_LENDERS:
        return f"the machine has more than {MOST_LENDERS} ranks"
    return no_room if own_cores else "ranks have no cores of their own"


def check_asked(asked: bool | None, why_not: str | None) -> None:
    """ConfigError where cores are to be lent, as `asked` by --lend-cores, and cannot be."""
    if asked and why_not is not None:
        raise ConfigError(f"lend_cores: {why_not}; leave --lend-cores out", field="lend_cores", value=True)
