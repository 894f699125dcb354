"""Whether `verify` fits into memory: one rank and all ranks in this process, and the ranks again as processes."""

from __future__ import annotations

from weft.base.errors import ConfigError
from weft.base.plural import size
from weft.base.settings import DTYPE_BYTES
from weft.runtime.launch_plan.plan import LaunchPlan


def check_memory(alone: LaunchPlan, plan: LaunchPlan, *, served: bool) -> None:
    """ConfigError names what is needed and what there is, and what to change."""
    if plan.memory is None:
        return
    ranks = _weights(plan)
    lockstep = ranks // plan.layout.replicas
    needed = _weights(alone) + lockstep + (ranks + sum(rank.process for rank in plan.memory.ranks) if served else 0)
    if needed > plan.memory.available:
        fewer = "take --comm lockstep, which starts no processes, or " if served else ""
        raise ConfigError(
            f"verify holds one rank and the layout's {plan.layout.world} ranks at once: {size(needed)} of weights are "
            f"needed, {size(plan.memory.available)} are free; {fewer}choose a narrower --dtype",
            field="dtype",
            value=plan.engine.dtype,
        )


def _weights(plan: LaunchPlan) -> int:
    itemsize = DTYPE_BYTES[plan.engine.dtype]
    return sum(sum(plan.shards.bytes(rank, itemsize).values()) for rank in range(plan.layout.world))
