"""The search against an exhaustive one, dominance against random rates, and what more devices, memory and links do."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from tests.support.exact_model import exact_config
from weft.base.errors import ConfigError, LayoutError, UnavailableError
from weft.parallel.arch import parse_config
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.fit import check_fit, resolve_for
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.serialize import load_given
from weft.tools.explain.fits import Budget, fit
from weft.tools.explain.proposals import StepLoad
from weft.tools.explain.report import explain
from weft.tools.plan.clusters import Cluster, Rates, read_cluster
from weft.tools.plan.document import document, json_schema
from weft.tools.plan.goal import Goal
from weft.tools.plan.measure import measure, measured_lines
from weft.tools.plan.plan import LayoutPlan, make_plan, order, rank_layout, room_by_explain, stated_layout
from weft.tools.plan.reasons import reasons
from weft.tools.plan.rules import SearchRules, check_pins, read_sizes
from weft.tools.plan.search import Space, layout_of, search, times_of
from weft.tools.plan.text import lines

MODELS = {name: parse_config(exact_config(name)) for name in ("tied", "experts", "latent")}
GOAL = Goal(streams=12, prompt=20, answer=8, load=StepLoad(16, 8, 4), block=4)
MEMORY = 1 << 30


def rates(draw: random.Random) -> Rates:
    def some(low: float, high: float) -> float:
        return float(10 ** draw.uniform(low, high))

    product, inside, across, step = (some(-7, -4) for _ in range(4))
    return Rates(some(7, 11), some(8, 12), some(6, 10), some(5, 9), "drawn", product, inside, across, step)


def cluster(devices: int, seed: int = 0, memory: int = MEMORY) -> Cluster:
    return Cluster("drawn", devices, 2, memory, rates(random.Random(seed)))


def planned(
    config: ModelConfig,
    on: Cluster,
    goal: Goal = GOAL,
    top: int = 1,
    pins: dict[str, int] | None = None,
    most: dict[str, int] | None = None,
) -> LayoutPlan:
    space = search(config, on, goal, SearchRules(on.devices, pins or {}, most or {}, context=goal.context))
    return make_plan(space, room_by_explain(space.explained), top)


def every_layout(config: ModelConfig, devices: int) -> list[Layout]:
    """All that the resolver and the model allow, of stages that are even and without shared positions."""
    found = []
    modules = ["o_proj", "embedding", "lm_head"]
    modules += ["dense"] if not config.moe or config.moe.first_layer else []
    modules += ["shared_experts"] if config.moe and config.moe.shared_intermediate_size else []
    for ranks in range(1, devices + 1):
        experts = [(tp, ep) for tp in divisors(ranks) for ep in divisors(ranks) if ranks % (tp * ep) == 0]
        for tp, *sizes in itertools.product(divisors(ranks), *(divisors(ranks) for _ in modules)):
            for of_experts in experts if config.moe else [None]:
                given: dict[str, object] = {"attention.tp": tp, "attention.dp": ranks // tp}
                given |= {f"{module}.tp": size for module, size in zip(modules, sizes, strict=True)}
                if of_experts:
                    given |= {"experts.tp": of_experts[0], "experts.ep": of_experts[1]}
                for stages in range(1, min(config.num_layers, devices // ranks) + 1):
                    for replicas in range(1, devices // (ranks * stages) + 1):
                        try:
                            layout = resolve_for(config, {**given, "pipeline.stages": stages, "replicas": replicas})
                            check_fit(layout, config)
                        except LayoutError:
                            continue
                        found.append(layout)
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "devices", [1, 2, 3, 4, *(pytest.param(more, marks=pytest.mark.long) for more in (5, 6, 7, 8))]
)
def test_every_layout_is_looked_at_and_the_best_is_found(name: str, devices: int) -> None:
    config, on = MODELS[name], cluster(devices, devices)
    if config.moe and devices > 4:
        pytest.skip("too many layouts to look at each alone")
    found = planned(config, on)
    every = every_layout(config, devices)
    assert found.space.looked == len(every)
    explained, room = found.space.explained, room_by_explain(found.space.explained)
    if devices > 4:  # one layout alone takes as long as all parts of a shape
        every = random.Random(devices).sample(every, 200)
    alone = [ranked for layout in every if not isinstance(ranked := stated_layout(explained, layout, room), int)]
    best = min(alone, key=lambda ranked: order(explained, ranked.candidate, ranked.times))
    first = found.leaders[0]
    assert first.times.request <= best.times.request * (1 + 1e-9)
    if devices <= 4:
        assert first.times.request == pytest.approx(best.times.request)


@pytest.mark.parametrize("name", MODELS)
def test_what_dominance_removes_is_fastest_at_no_rates(name: str) -> None:
    space = search(MODELS[name], cluster(4), GOAL, SearchRules(4, context=GOAL.context))
    assert space.why
    draw = random.Random(1)
    for _ in range(1000 if name == "tied" else 60):
        explained = space.explained
        explained.cluster = replace(explained.cluster, rates=rates(draw))
        explained.seconds.clear()
        stays = min(times_of(explained, each).request for each in space.left)
        removed = min(times_of(explained, each).request for each in space.why)
        assert stays <= removed * (1 + 1e-12)


def _request(found: LayoutPlan) -> float:
    return found.leaders[0].times.request


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(4))
def test_more_is_never_worse_and_a_pin_never_better(name: str, seed: int) -> None:
    config = MODELS[name]
    draw = random.Random(seed)
    # little enough that not every layout has room for all streams
    one = planned(config, cluster(3, seed))
    tight = int(sum(one.leaders[0].modules.values()) * 3 + 40_000)
    on = cluster(3, seed, tight)
    plain = planned(config, on)
    assert _request(planned(config, cluster(4, seed, tight))) <= _request(plain) * (1 + 1e-12)
    assert _request(planned(config, cluster(3, seed, 2 * tight))) <= _request(plain) * (1 + 1e-12)
    faster = replace(on.rates, inside=on.rates.inside * 3, across=on.rates.across * 2)
    assert _request(planned(config, replace(on, rates=faster))) <= _request(plain) * (1 + 1e-12)
    pinned = planned(config, on, pins={draw.choice(("o_proj.tp", "lm_head.tp", "attention.tp")): 1})
    assert not pinned.leaders or _request(pinned) >= _request(plain) * (1 - 1e-12)
    limited = planned(config, on, most={"attention.dp": 1})
    assert not limited.leaders or _request(limited) >= _request(plain) * (1 - 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_bytes_calls_and_room_are_explains(name: str) -> None:
    config = MODELS[name]
    found = planned(config, cluster(4), top=40)
    explained = found.space.explained
    for ranked in found.leaders:
        report = explain(name, config, ranked.layout, dtype="float32", batch=2)
        fullest = max(report.ranks, key=lambda rank: rank.total)
        assert dict(ranked.modules) == fullest.bytes
        load, budget = GOAL.load, Budget(explained.cluster.budget(ranked.layout.world))
        tightest = fit(config, ranked.layout, load, budget).tightest
        groups = ranked.layout.attention.dp * ranked.layout.replicas
        assert ranked.requests == tightest.kv_tokens // GOAL.held * groups
        rebuilt = layout_of(explained, ranked.candidate)
        assert rebuilt == ranked.layout


def test_calls_of_explain_are_few() -> None:
    dense = search(MODELS["tied"], cluster(8), GOAL, SearchRules(8, context=GOAL.context))
    assert dense.explained.calls <= 150
    many = search(MODELS["latent"], cluster(4096), GOAL, SearchRules(4096, context=GOAL.context))
    assert many.explained.calls <= 400
    assert many.left


def test_less_room_than_streams_takes_longer() -> None:
    space: Space = search(MODELS["tied"], cluster(1), GOAL, SearchRules(1, context=GOAL.context))
    (only,) = space.left
    whole = times_of(space.explained, only)
    assert times_of(space.explained, only, GOAL.streams // 4).request == pytest.approx(4 * whole.request)
    one = replace(GOAL, answer=1)
    alone = search(MODELS["tied"], cluster(1), one, SearchRules(1, context=one.context))
    # the first token of an answer comes with its prompt
    chunks = one.streams * times_of(alone.explained, alone.left[0]).prompt
    assert times_of(alone.explained, alone.left[0]).request <= chunks * (1 + 1e-9)


def test_a_layout_without_room_is_no_layout() -> None:
    config = MODELS["tied"]
    found = planned(config, cluster(2, memory=1000))
    assert not found.leaders and found.misses and found.misses[0][1] > 0
    candidate = found.misses[0][0]
    explained = found.space.explained
    one = layout_of(explained, candidate, replicas=1)
    assert isinstance(rank_layout(explained, candidate, one, room_by_explain(explained)(one, 1)), int)


@pytest.mark.parametrize(
    "word", ["h20x8", "h200", "h200x0", "nowhere.yaml"]
)  # fmt: skip
def test_unknown_clusters_are_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        read_cluster(word, "bfloat16")


@pytest.mark.parametrize(
    "text", ["memory: 144KB", "nodes: 0", "device: h20", "memoy: 3", "bandwidth: -1", "[]", "products: 3"]
)
def test_clusters_that_cannot_be_meant_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    device = "" if text.startswith(("device", "[")) else "device: h100\n"
    file.write_text(device + text)
    with pytest.raises(ConfigError):
        read_cluster(str(file), "bfloat16")


def test_pins_that_contradict_are_refused() -> None:
    assert read_sizes("--pin", ["dense.tp=4", "dense.tp=4"]) == {"dense.tp": 4}
    for words in (["dense.tp=0"], ["dense=4"], ["dense.tp=2", "dense.tp=4"], ["dense.tp"]):
        with pytest.raises(ConfigError):
            read_sizes("--pin", words)
    for pins, most in (({"dense.tp": 4}, {"dense.tp": 2}), ({"attention.tp": 4, "replicas": 4}, {})):
        with pytest.raises(ConfigError):
            check_pins(pins, most, 8)


def test_what_was_measured_is_the_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    leaders = planned(MODELS["tied"], cluster(3), top=3).leaders
    rates_found = {"1": 5.0, "2": 9.0, "3": None}

    def bench(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        rows = [
            {"layout": name, "tpot_ms": {"median": 4.0}, "output_tokens_per_s": rate and {"median": rate}}
            for name, rate in rates_found.items()
        ]
        assert all(load_given(Path(word)) for word in command if word.endswith(".yaml"))
        Path(command[command.index("--save") + 1]).write_text(json.dumps({"rows": rows}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", bench)
    found = measure(["model"], leaders, GOAL)
    assert [one.rate for one in found] == [9.0, 5.0, None]
    assert [one.predicted for one in found] == [leaders[place].times.step for place in (1, 0, 2)]
    assert len(measured_lines(found)) == 4
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 69))
    with pytest.raises(UnavailableError):
        measure(["model"], leaders, GOAL)
    with pytest.raises(ConfigError):
        measure(["model"], leaders[:1], GOAL)


def test_a_plan_is_the_same_twice_and_keeps_its_schema() -> None:
    found = [planned(MODELS["latent"], cluster(3), top=3) for _ in range(2)]
    made = []
    for plan in found:
        why = tuple(reasons(plan.space, plan.leaders[0]))
        made.append(document("m", plan, why, plan.leaders[1]))
        assert why and list(lines("m", plan, SearchRules(3), why, None))
    assert json.dumps(made[0]) == json.dumps(made[1])
    jsonschema.validate(made[0], json_schema())
