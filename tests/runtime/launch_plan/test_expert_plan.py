"""What is asked of expert slots: options, files of placements, refusals with legal values; and plans in a process."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import small_config
from tests.support.waiting import until
from weft.base.errors import ConfigError, PeerError, WeftError
from weft.base.settings import EngineConfig
from weft.parallel.arch import parse_config
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.shards import Shards
from weft.parallel.experts.balancing.balancer import LoadBalancer
from weft.parallel.experts.balancing.eplb_process import EplbProcess
from weft.parallel.experts.placement.placement import ExpertPlacement, even_placement
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.expert_plan import ExpertPlan, plan_experts
from weft.runtime.launch_plan.memory import rank_memories

MIXTURE = small_config(
    "qwen3",
    architectures=["Qwen3MoeForCausalLM"],
    model_type="qwen3_moe",
    num_experts=6,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    num_hidden_layers=3,
    decoder_sparse_step=1,
    mlp_only_layers=[0],
    norm_topk_prob=True,
)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return parse_config(MIXTURE)


Planned = Callable[..., ExpertPlan | None]


@pytest.fixture
def planned(config: ModelConfig) -> Planned:
    def plan(given: dict[str, object] | None = None, **engine: Any) -> ExpertPlan | None:
        sizes: dict[str, object] = {"attention.dp": 2, "experts.ep": 2, "experts.slots": 8, **(given or {})}
        layout = resolve(sizes, num_experts=config.num_experts)
        return plan_experts(config, layout, EngineConfig(**engine), 4)

    return plan


ON: dict[str, object] = {"experts.balance.policy": "auto"}


def test_nothing_asked_nothing_done(planned: Planned) -> None:
    assert planned() is None


def test_what_follows_from_the_options(planned: Planned) -> None:
    plan = planned({**ON, "experts.balance.interval": 40}, eplb_window=10, eplb_bytes_per_step=64 << 10)
    assert plan is not None
    settings = plan.settings
    assert settings.layers == (1, 2) and (settings.interval, settings.window) == (40, 10)
    assert settings.most_moved == 2 and plan.staged == 2
    assert settings.slot_bytes == 3 * 32 * 288 * 4
    assert (settings.pace.parts, settings.pace.parts_per_step) == (2, 1)
    assert plan.slot_maps == ((1, (0, 1, 2, 3, 4, 5, 0, 1)), (2, (0, 1, 2, 3, 4, 5, 0, 1)))
    assert "every 40 steps, the last 10 of them count" in plan.lines()[1]


def test_statistics_alone_move_nothing(planned: Planned, tmp_path: Path) -> None:
    plan = planned(expert_stats=str(tmp_path / "stats.json"))
    assert plan is not None and plan.settings.balancer is None and plan.staged == 0
    assert plan.balancing("m").work() is None
    assert json.loads((tmp_path / "stats.json").read_text())["logical_count"] == [[0] * 6] * 3


def test_memory_counts_slots_that_arrive(config: ModelConfig) -> None:
    layout = resolve({"attention.dp": 2, "experts.ep": 2, "experts.slots": 8}, num_experts=6)
    shards = Shards(config, layout)
    plain, staged = (rank_memories(shards, EngineConfig(), 4, 1 << 30, slots)[0] for slots in (0, 3))
    assert staged.workspace - plain.workspace == 3 * shards.slot_bytes(0, 4) == 9 * 32 * 288 * 4


@pytest.mark.parametrize(
    ("given", "engine", "words"),
    [
        ({}, {"eplb_window": 5}, "eplb_window 5: experts are not balanced; give --eplb"),
        ({}, {"eplb_threshold": 0.5}, "eplb_threshold 0.5: experts are not balanced"),
        ({**ON, "experts.balance.interval": 9}, {"eplb_window": 10}, "eplb_window 10: .*; legal: 1 to 9"),
        (ON, {"eplb_max_moved": 9}, "eplb_max_moved 9: a layer has 8 slots; legal: 1 to 8"),
        ({**ON, "experts.ep": 1}, {}, "ep is 1, .*; legal ep: 2"),
        ({"experts.balance.policy": "hierarchical"}, {}, "policy hierarchical: needs nodes and groups above 1"),
        (ON, {"expert_stats": "/nowhere/at/all"}, "expert_stats /nowhere/at/all: "),
    ],
)
def test_refusals(given: dict[str, object], engine: dict[str, object], words: str, planned: Planned) -> None:
    with pytest.raises(ConfigError, match=words):
        plan = planned(given, **engine)
        assert plan is not None
        plan.balancing("m")


def test_uneven_slots_cannot_be_balanced(config: ModelConfig) -> None:
    layout = resolve({"attention.dp": 4, "experts.ep": 4, **ON}, num_experts=6)
    with pytest.raises(ConfigError, match="slots 6: not divisible by 4 ranks; legal with 4 ranks: 8, 12"):
        plan_experts(config, layout, EngineConfig(), 4)


@pytest.mark.parametrize("name", ["expert_placement", "expert_stats", "eplb_window"])
def test_a_dense_model_has_no_experts(name: str) -> None:
    value = 3 if name == "eplb_window" else "file"
    with pytest.raises(ConfigError, match=f"{name} {value}: the model has no routed experts"):
        plan_experts(parse_config(small_config()), resolve({}), EngineConfig(**{name: value}), 4)  # type: ignore[arg-type]


ROW = [5, 4, 3, 2, 1, 0, 5, 4]
WEFT = {"schema": "weft.experts.balance/1", "experts": 6, "ranks": 2, "phy2log": [[0, 1, 2, 3, 4, 5, 0, 1], ROW, ROW]}
TRT = "num_slots: {slots}\nlayer_updates_per_iter: 0\ninitial_global_assignments:\n{rows}"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(WEFT),
        json.dumps({"physical_to_logical_map": WEFT["phy2log"]}),
        TRT.format(slots=8, rows=f"  1: {ROW}\n  2: {ROW}\n"),
    ],
    ids=["weft", "sglang", "trtllm"],
)
def test_placements_are_read(text: str, planned: Planned, tmp_path: Path) -> None:
    file = tmp_path / ("start.json" if text.startswith("{") else "start.yaml")
    file.write_text(text)
    plan = planned(expert_placement=str(file))
    assert plan is not None and plan.placement.phy2log.tolist() == [ROW, ROW]
    assert plan.slot_maps == ((1, tuple(ROW)), (2, tuple(ROW)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps({**WEFT, "phy2log": [ROW]}), "1 layers, but the model has 3"),
        (json.dumps({**WEFT, "ranks": 4}), "ranks 2: the placement has 4"),
        (json.dumps({**WEFT, "experts": 7}), "expert 6 has no slot in layer 0"),
        (json.dumps({"physical_to_logical_map": [[0, 1, 2, 3]] * 3}), "4 experts, but the model has 6"),
        (json.dumps({"physical_to_logical_map": [[0, 1, 2, 3, 4, 5]] * 3}), "6 slots, but the layout has 8"),
        (TRT.format(slots=8, rows=f"  1: {ROW}\n"), "has no layer 2; the model has experts in layers 1 to 2"),
        (TRT.format(slots=8, rows=f"  2: {ROW}\n"), "has no layer 1; the model has experts in layers 1 to 2"),
        (TRT.format(slots=8, rows=f"  1: {ROW}\n  2: {ROW}\n  9: {ROW}\n"), "10 layers, but the model has 3"),
        (json.dumps({"logical_count": [[1, 2]]}), "no placement; wanted an object with"),
        ("{", "not JSON"),
    ],
)
def test_other_placements_are_refused(text: str, words: str, planned: Planned, tmp_path: Path) -> None:
    file = tmp_path / ("start.yaml" if text.startswith("num") else "start.json")
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        planned(expert_placement=str(file))


LOADS = np.array([[90.0, 4, 3, 2, 1, 1], [1, 1, 1, 1, 1, 1]])


def wait(planner: EplbProcess) -> ExpertPlacement:
    found: list[ExpertPlacement] = []

    def came() -> bool:
        found.extend(filter(None, [planner.poll()]))
        return bool(found)

    until(came, "no plan")
    return found[0]


def test_a_process_plans_what_the_balancer_plans() -> None:
    shape = SlotShape(6, 8, 2)
    balancer = LoadBalancer(shape, "global", 0.5)
    planner, current = EplbProcess(balancer), even_placement(2, shape)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        planner.start(LOADS, current)
        found = wait(planner)
        assert found.phy2log.tolist() == balancer.plan(LOADS, current).placement.phy2log.tolist()
    with pytest.raises(PeerError, match="no placement is being planned"):
        planner.poll()
    planner.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(3)", "ended with code 3 and no plan"),
        ("print('[1]')", "no plan"),
        ("""print('{"error": "too hot"}')""", "too hot"),
        ("""print('{"phy2log": [[0, 0, 0, 0, 0, 0, 0, 0]]}')""", "expert 1 has no slot"),
        ("import os; os.kill(os.getpid(), 9)", "ended with code -9 and no plan"),
    ],
)
def test_a_plan_that_comes_to_nothing(code: str, words: str) -> None:
    shape = SlotShape(6, 8, 2)
    planner = EplbProcess(LoadBalancer(shape), (sys.executable, "-c", code))
    planner.start(LOADS, even_placement(2, shape))
    with pytest.raises(WeftError, match=words):
        wait(planner)
    planner.close()


@pytest.mark.parametrize(
    ("refused", "given"), [((os, "memfd_create"), 0), ((os, "memfd_create"), 1), ((subprocess, "Popen"), 0)]
)
def test_what_the_system_refuses_leaves_nothing_open(
    refused: tuple[object, str], given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`given`: how many it grants before."""
    grants, granted = iter(range(given)), getattr(*refused)

    def refuse(*args: object, **options: object) -> object:
        if next(grants, None) is None:
            raise OSError(errno.ENFILE, "too many open files")
        return granted(*args, **options)

    planner, before = EplbProcess(LoadBalancer(SlotShape(6, 8, 2))), len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(*refused, refuse)
    with pytest.raises(OSError, match="too many open files"):
        planner.start(LOADS, even_placement(2, SlotShape(6, 8, 2)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_plan_can_be_given_up() -> None:
    planner = EplbProcess(LoadBalancer(SlotShape(6, 8, 2)), (sys.executable, "-c", "import time; time.sleep(600)"))
    planner.start(LOADS, even_placement(2, SlotShape(6, 8, 2)))
    assert planner.poll() is None
    assert planner._process is not None
    pid = planner._process.pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19 and os.sched_getscheduler(pid) == os.SCHED_BATCH
    planner.close()
    planner.close()
