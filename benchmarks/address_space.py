"""How many addresses ranks take beside what is planned for them: what a limit of a process's addresses must leave.

    python benchmarks/address_space.py [--model DIR] [--save FILE.json]

Each case starts an engine, answers a prompt of 1,000, and reads of every rank's process the most addresses it had
(`VmPeak` of /proc/PID/status) and the most memory (`VmHWM`). `beside`: addresses less weights, workspace and KV cache
of the plan; `weft/launch_plan/memory.py` leaves `ADDRESS_BYTES` for them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import run_command
from benchmarks.offline_engine import Watched, options, tell
from weft.checkpoint import open_checkpoint
from weft.checkpoint.hub.paths import model_path
from weft.engine.engine import Engine
from weft.launch_plan.memory import MIB, MemoryPlan
from weft.launch_plan.plan import plan_launch
from weft.layout.resolve import resolve
from weft.settings import EngineConfig
from weft.supervisor.start import Starting

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one rank": (1, {}),
    "two ranks": (2, {}),
    "one rank, int4": (1, {"quantization": "int4"}),
    "one rank, a thread": (1, {"threads": 1}),
    "one rank, --enforce-eager": (1, {"enforce_eager": True}),
}


def most_mib(pid: int) -> dict[str, int]:
    """MiB of addresses and of memory that a process had at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {name: int(kib) // 1024 for name, kib in re.findall(r"(VmPeak|VmHWM):\s+(\d+) kB", status)}


def measure(model: str | None, tp: int, given: dict[str, Any]) -> list[dict[str, int]]:
    """Of each rank, MiB."""
    settings = EngineConfig(max_model_len=2048, kv_cache_memory=256 << 20, dtype="bfloat16", **given)
    starting = Starting(plan_launch(open_checkpoint(model_path(model)), resolve({}, tp=tp), settings))
    executor = starting.wait()
    try:
        engine = Watched(Engine(executor, starting.plan.engine, ()), starting.plan.config.vocab_size)
        engine.add("prompt", engine.prompt(0, 1000), 8)
        engine.finish()
        return [beside(rank, starting.plan.memory, report.pid) for rank, report in enumerate(starting.reports())]
    finally:
        executor.close()


def beside(rank: int, plan: MemoryPlan | None, pid: int) -> dict[str, int]:
    """What a rank's process had at most, what was planned for it, and the addresses that are more than that."""
    assert plan is not None
    needs, most = plan.ranks[rank], most_mib(pid)
    planned = (needs.weights + needs.workspace + (plan.num_blocks + 1) * needs.block) // MIB
    taken = most["VmPeak"]
    return {"addresses": taken, "memory": most["VmHWM"], "planned": planned, "beside": taken - planned}


def main() -> None:
    arguments = options(__doc__, ranks=False).parse_args()
    tell(arguments, {name: measure(arguments.model, *case) for name, case in CASES.items()})


if __name__ == "__main__":
    run_command(main)
