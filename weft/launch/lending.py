"""Whether ranks lend each other their cores while they wait. Knows what stands in the way, no process and no thread."""

from __future__ import annotations

from weft.errors import ConfigError

MOST_LENDERS = 16
"""Ranks of a region, up to which they lend cores to each other: each has a thread on each other's."""


def lends(asked: bool | None, ranks: int, *, shared_memory: bool, program: bool, own_cores: bool) -> bool | str:
    """`asked`: --lend-cores, None where nothing was said. Whether each rank lends a core, or why none can. ConfigError:
    none can, and it was asked for."""
    obstacles = {
        "one rank waits for no other": ranks == 1,
        "ranks do not meet in shared memory": not shared_memory,
        "steps are no program": not program,
        f"the machine has more than {MOST_LENDERS} ranks": ranks > MOST_LENDERS,
        "ranks have no cores of their own": not own_cores,
    }
    reason = next((reason for reason, there in obstacles.items() if there), None)
    if asked and reason:
        raise ConfigError(f"lend_cores: {reason}; leave --lend-cores out", field="lend_cores", value=True)
    return asked is not False and (reason or True)
