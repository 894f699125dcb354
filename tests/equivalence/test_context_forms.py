"""Owners of a KV cache exchange queries and partial outputs, or gather keys: the bits are the same, and bytes choose.

On fp64 weights that are not exact: nothing hides another order of additions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    LONG,
    MIXED,
    Workload,
    checkpoint_at,
    make_executor,
    random_prompts,
    run_workload,
    same_bits,
)
from weft.base.errors import LayoutError
from weft.compute.ops.attention import KVCache
from weft.compute.ops.base import Numerics
from weft.model.models.kv_exchange import KVExchange
from weft.model.models.transitions import Transitions
from weft.parallel.arch import Shards, parse_config
from weft.parallel.arch.fit import check_fit
from weft.parallel.layout.boundaries import KEYS, PARTIALS, QUERIES, KeyGather, key_gather
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import full
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.tensors.gathered_keys import Contexts, KeyGathering
from weft.runtime.worker.tensors.step_shape import Geometry
from weft.tools.verify.record import GreedyOutput

Models = Callable[[str, Numerics], Model]
FP64 = Numerics(torch.float64)
LAYOUTS: dict[str, dict[str, object]] = {
    "cp 2": {"attention.cp": 2},
    "cp 3, tp 2": {"attention.cp": 3, "attention.tp": 2},
    "split 2": {"attention.tp": 2, "attention.kv_split": 2},
    "split 2 of tp 6": {"attention.tp": 6, "attention.kv_split": 2, "dense.tp": 3},
    "cp 2, split 2": {"attention.cp": 2, "attention.tp": 2, "attention.kv_split": 2},
    "cp 2, dp 2": {"attention.cp": 2, "attention.dp": 2},
}
BEGIN_ALIKE = random_prompts((60,), 101, seed=8)[0]
CACHED = Workload((BEGIN_ALIKE, (*BEGIN_ALIKE[:45], 7), *random_prompts((33, 2), 101, seed=3)), (0, 5, 6, 6), 4, 24)
"""Prefix hits, chunks, and prompts beside decode rows."""


def layout_of(model: Model, name: str) -> Layout | None:
    config = parse_config(checkpoint_at(model.path).config)
    layout = resolve(LAYOUTS[name], num_experts=config.num_experts)
    try:
        check_fit(layout, config)
    except LayoutError:
        return None
    return layout


def gathers(patch: pytest.MonkeyPatch, longest: int) -> None:
    """Prompts gather keys with contexts of at most so many positions."""
    patch.setattr(KeyGather, "longest", lambda self, rows, itemsize: longest if rows else -1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each exchange ran."""
    found: Counter[str] = Counter()
    for method in ("gather", "exchange"):
        original = getattr(Transitions, method)

        def counted(self: Transitions, name: str, *args: object, original: Callable[..., None] = original) -> None:
            found[name] += 1
            original(self, name, *args)

        monkeypatch.setattr(Transitions, method, counted)
    return found


def run(model: Model, layout: Layout, work: Workload) -> list[GreedyOutput]:
    return run_workload(make_executor(model.path, layout, model.numerics), work)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("variant", ["window", "latent"])
def test_both_forms_give_the_same_bits(
    variant: str, name: str, model: Models, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    case = model(variant, FP64)
    layout = layout_of(case, name)
    if layout is None:
        assert (variant, name) == ("window", "split 2") or (variant, name) == ("window", "cp 2, split 2")
        return
    with monkeypatch.context() as patch:
        gathers(patch, -1)
        wanted = run(case, layout, CACHED)
        assert calls[KEYS] == 0 and calls[QUERIES] == calls[PARTIALS] > 0
    for longest in (10**6, 24, 23):  # 24 and 23: the choice flips within a prompt
        with monkeypatch.context() as patch:
            gathers(patch, longest)
            calls.clear()
            assert same_bits(run(case, layout, CACHED), wanted), longest
            assert calls[KEYS] > 0 and calls[QUERIES] > 0


def test_keys_of_an_owner_left_out_turn_it_red(model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    case = model("window", FP64)
    layout = layout_of(case, "cp 2")
    assert layout is not None
    wanted = run(case, layout, MIXED)
    gathers(monkeypatch, 10**6)
    assert same_bits(run(case, layout, MIXED), wanted)
    original = KVExchange.keys

    def faulty(self: KVExchange, *args: Any) -> list[KVCache]:
        found = original(self, *args)
        found[1].v.zero_()
        return found

    monkeypatch.setattr(KVExchange, "keys", faulty)
    assert not same_bits(run(case, layout, MIXED), wanted)


GQA = key_gather(resolve({"attention.cp": 2}), heads=8, kv_heads=2, key_dim=64, latent=False)
SPLIT = {"attention.tp": 4, "attention.kv_split": 2}
MLA = key_gather(resolve(SPLIT), heads=8, kv_heads=8, key_dim=96, latent=True)


@pytest.mark.parametrize(("price", "given"), [(GQA, {"attention.cp": 2}), (MLA, SPLIT)], ids=["gqa", "mla"])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_fewer_bytes_decide(price: KeyGather, given: dict[str, object], itemsize: int) -> None:
    """At the longest context that gathers keys, and one block above it; a decode row never does."""
    layout, size, rows = resolve(given), 16, 40
    keys = 2 * 2 * 64 if price is GQA else 2 * 96  # each of the two groups of a kv_split has the latents once
    of_queries = rows * 8 * (price.key_dim * itemsize + (price.key_dim + 2) * 4)
    longest = price.longest(rows, itemsize)
    assert longest * keys * itemsize < of_queries <= (longest + 1) * keys * itemsize
    geometry = Geometry(layout, 0, size, torch.device("cpu"), full(1))
    gathering = KeyGathering(geometry, price, itemsize)
    most = longest // size * size
    for end, chosen in ((most, True), (most + 1, False), (most - size, True)):
        contexts = Contexts(np.array([end, end]), np.zeros((2, 1), np.int32), decodes=0)
        assert gathering.chosen(np.array([rows, 0]), contexts).tolist() == [chosen, False]
    decode = Contexts(np.array([1]), np.zeros((1, 1), np.int32), decodes=1)
    assert price.longest(1, itemsize) >= 0 and not gathering.chosen(np.array([1]), decode).any()


@pytest.mark.parametrize("variant", ["window", "latent"])
def test_the_choice_flips_within_a_prompt(variant: str, model: Models, calls: Counter[str]) -> None:
    """By bytes alone: chunks of a long prompt gather keys first, and queries later."""
    case = model(variant, FP64)
    layout = layout_of(case, "cp 2")
    assert layout is not None
    price = Shards(parse_config(checkpoint_at(case.path).config), layout).forward_plan.key_gather
    assert price is not None and 16 < price.longest(8, 8) < 160
    executor = make_executor(case.path, layout, FP64)
    found = run_workload(executor, replace(LONG, budget=8))
    layers = sum(len(runner.caches) for runner in executor.runners)
    assert 0 < calls[KEYS] < layers * sum(len(prompt) for prompt in LONG.prompts) // 8
    assert same_bits(found, run(case, layout, LONG))
