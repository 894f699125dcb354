"""A plan as JSON ("weft.plan/1") and the JSON schema that it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from weft.base.data_files import read_schema
from weft.parallel.layout.serialize import json_schema as layout_schema
from weft.parallel.layout.serialize import to_dict
from weft.tools.plan.plan import LayoutPlan, Ranked, idle_devices, per_device

SCHEMA = "weft.plan/1"
Json = dict[str, Any]


def document(name: str, found: LayoutPlan, why: Sequence[str], stated: Ranked | None = None) -> Json:
    """The plan as plain data; keys are stable, see `json_schema`."""
    explained = found.space.explained
    goal, cluster = explained.goal, explained.cluster
    rates = {key: value for key, value in asdict(cluster.rates).items() if key not in ("source", "measured")}
    return {
        "schema": SCHEMA,
        "model": name,
        "cluster": {
            "name": cluster.name, "devices": cluster.devices, "devices_per_node": cluster.per_node,
            "memory": cluster.memory, "rates": rates, "source": cluster.rates.source,
            "measured": cluster.rates.measured,
        },
        "goal": {"streams": goal.streams, "in": goal.prompt, "out": goal.answer, "tpot": goal.tpot},
        "looked": found.space.looked,
        "explained": explained.calls,
        "unfit": found.space.unfit,
        "removed": dict(sorted(found.space.removed.items())),
        "layouts": [_ranked(found, each) for each in found.leaders],
        "stated": None if stated is None else _ranked(found, stated),
        "reasons": list(why),
    }  # fmt: skip


def _ranked(found: LayoutPlan, ranked: Ranked) -> Json:
    explained, times = found.space.explained, ranked.times
    goal = explained.goal
    return {
        "layout": to_dict(ranked.layout),
        "derived": sorted(ranked.layout.derived),
        "idle": idle_devices(explained, ranked),
        "bytes": dict(ranked.modules),
        "requests": ranked.requests,
        "step_seconds": times.step,
        "prompt_seconds": times.prompt,
        "request_seconds": times.request,
        "modules_seconds": dict(times.modules),
        "tokens_per_second_and_stream": 1 / times.step,
        "tokens_per_second_and_device": per_device(explained, ranked),
        "meets_goal": goal.tpot is None or times.step <= goal.tpot,
    }


def json_schema() -> Json:
    """JSON schema (2020-12) of `document`."""
    schema = read_schema("weft.tools.plan", SCHEMA)
    for name in ("layouts", "stated"):
        part = schema["properties"][name]
        (part["items"] if name == "layouts" else part["anyOf"][0])["properties"]["layout"] = layout_schema()
    return schema
