"""Reports of ranks for people and for /ready."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from weft.base.machine.cores import numa_node
from weft.parallel.layout.ranks import coords
from weft.runtime.ipc.messages import Joined
from weft.runtime.ipc.phases import PhaseChange
from weft.runtime.ipc.report import RankReport
from weft.runtime.ipc.status import StatusPage
from weft.runtime.launch_plan.plan import LaunchPlan
from weft.runtime.supervisor.link import RankLink


def rank_report(
    plan: LaunchPlan,
    worker: RankLink,
    change: PhaseChange,
    joined: Joined | None,
    cpus: Sequence[int],
    status: StatusPage,
    now_s: float,
) -> RankReport:
    """Where a rank is, how far its start is, and what it has done. `now_s`: seconds since the start began."""
    layout, number = plan.world or plan.layout, plan.first_rank + worker.rank
    at, device = coords(layout, number), plan.engine.device
    work, held = status.work(worker.rank), status.held(worker.rank)
    return RankReport(
        rank=number,
        coordinates={"replica": at.replica, "stage": at.stage, "dp": at.dp, "cp": at.cp, "tp": at.tp},
        host=platform.node() if joined is None else joined.host,
        pid=worker.pid,
        device=device if device == "cpu" else f"{device}:{number % layout.ranks_per_node}",
        cpus=list(cpus),
        numa_node=numa_node(cpus) if plan.host_of[worker.rank] == 0 else None,
        phase=change.phase,
        detail=change.detail,
        since_s=round(now_s - change.at_s, 3),
        busy_s=work.busy_s,
        rows=work.rows,
        collective_s=work.collective_s,
        collective_bytes=work.collective_bytes,
        stage_wait_s=work.stage_wait_s,
        stage_idle=work.stage_idle,
        weight_bytes=held.weights,
        kv_cache_bytes=held.kv_cache,
    )
