"""What keeps ranks from stealing each other's work while they wait."""

from __future__ import annotations

from weft.errors import ConfigError

MOST_RANKS = 16
"""Most ranks of a region that steal from each other: each maps the arenas of all."""


def obstacle(
    ranks: int, *, shared_memory: bool, program: bool, own_cores: bool, cp: int = 1, no_arena: str | None = None
) -> str | None:
    """Why no rank can steal work; None where each can. `cp`: attention blocks of a dp group. `no_arena`: why a rank has
    no arena, which it alone knows."""
    if ranks == 1:
        return "one rank waits for no other"
    if not shared_memory:
        return "ranks do not meet in shared memory"
    if not program:
        return "steps are no program"
    if cp > 1:
        return "with cp a rank attends for rows that it does not have"
    if ranks > MOST_RANKS:
        return f"the machine has more than {MOST_RANKS} ranks"
    return no_arena if own_cores else "ranks have no cores of their own"


def check_asked(asked: bool | None, why_not: str | None) -> None:
    """ConfigError where --steal-work was `asked` for and cannot be."""
    if asked and why_not is not None:
        raise ConfigError(f"steal_work: {why_not}; leave --steal-work out", field="steal_work", value=True)
