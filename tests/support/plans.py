"""Launch plans of the tiny chat model with a small cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft.base.settings import EngineConfig
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.plan import LaunchPlan, plan_launch


def planned(model: Path, layout: dict[str, object], **engine: Any) -> LaunchPlan:
    """With `engine`, settings of an EngineConfig."""
    config = EngineConfig(kv_cache_memory=1 << 20, **engine)
    return plan_launch(open_checkpoint(model), resolve(layout), config)
