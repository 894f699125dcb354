"""`attention.split: auto` follows from layout and model alone: a start, explain and dry-run agree on it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from weft.base.settings import EngineConfig
from weft.cli.main import main
from weft.model.checkpoint import embedded_model, open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.splits import assign_heads
from weft.runtime.launch_plan.plan import plan_launch


@pytest.mark.parametrize("settings", [{}, {"enforce_eager": True}])
@pytest.mark.parametrize(("given", "heads"), [("auto", (6, 3)), ("groups", (6, 3)), ("balanced", (5, 4))])
def test_heads_are_split_alike_whatever_the_start(
    given: str, heads: tuple[int, int], settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    layout = resolve({"attention.split": given}, tp=2)
    plan = plan_launch(open_checkpoint(embedded_model(print)), layout, EngineConfig(**settings))
    assert tuple(share.q[1] - share.q[0] for share in plan.shards.heads) == heads
    words = ["--tp", "2", "--attn-split", given]
    assert main(["explain", "--json", *words]) == 0
    ranks = json.loads(capsys.readouterr().out)["ranks"]
    assert [each["q_heads"] for each in ranks] == [[0, heads[0]], [heads[0], 9]]
    assert main(["dry-run", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["params_by_module"] == ranks[0]["bytes"]


def test_on_several_nodes_the_heads_of_the_model_decide() -> None:
    assert resolve({}, tp=2).attention.split == "groups"
    several = resolve({"nodes": 2}, tp=2)
    assert several.attention.split == "auto"
    assert assign_heads(9, 3, 2, several.attention.split) == assign_heads(9, 3, 2, "balanced")
