"""Ranks that share the KV cache of a request by position (cp, kv_split) give what one rank gives, bit for bit.

Every stages x tp x cp x kv_split x dp of worlds up to 4 in which there are such ranks, and some of worlds 6 and 8.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import weft.compute.ops.attention as seam
from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    EXACT,
    LIMITS,
    LONG,
    MIXED,
    Workload,
    checkpoint_at,
    make_executor,
    of_one_rank,
    random_prompts,
    run_workload,
    same_bits,
)
from tests.support.exact_model import write_exact
from weft.base.errors import LayoutError
from weft.compute.ops.attention import KeyShare
from weft.compute.ops.base import Numerics
from weft.model.models.kv_exchange import KVExchange
from weft.parallel.arch import parse_config
from weft.parallel.arch.fit import check_fit
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.rows import KVOwners

Models = Callable[[str, Numerics], Model]
Given = dict[str, object]
FP64 = Numerics(torch.float64)
EXPERTS = {"experts": 5, "latent": 6}
APART = Workload(random_prompts((60, 45), 101), (0, 90), max_tokens=3, budget=288)
TOGETHER = replace(APART, arrivals=(0, 0), budget=25)
"""Enough blocks for several of each owner."""
VARIANTS = ("biased", "qk_norm", "window", "experts", "latent")


def every_given(world: int) -> Iterator[Given]:
    for stages, tp, cp, dp in itertools.product(divisors(world), repeat=4):
        if stages * tp * cp * dp == world and stages <= 2:
            for kv_split in divisors(tp):
                if cp * kv_split > 1:
                    sizes = {"tp": tp, "cp": cp, "dp": dp, "kv_split": kv_split}
                    yield {"pipeline.stages": stages, **{f"attention.{name}": size for name, size in sizes.items()}}


def legal(variant: str, given: Given, model: Model) -> Layout | None:
    layout = resolve(given, num_experts=EXPERTS.get(variant, 0))
    try:
        check_fit(layout, parse_config(checkpoint_at(model.path).config))
    except LayoutError:
        return None
    return layout


def differs(model: Model, layout: Layout, work: Workload = MIXED) -> bool:
    return not same_bits(run_workload(make_executor(model.path, layout, model.numerics), work), model.reference)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shared_contexts_equal_one_rank(variant: str, model: Models, record_property: Callable[..., None]) -> None:
    case, ran = model(variant, EXACT), 0
    for given in itertools.chain.from_iterable(map(every_given, (2, 3, 4))):
        layout = legal(variant, given, case)
        if layout is not None:
            assert not differs(case, layout), given
            ran += 1
    assert ran == {"window": 13, "latent": 13}.get(variant, 6)
    record_property("shared_contexts_equal", ran)


LARGER: dict[str, Given] = {
    "tp 6, split 2": {"attention.tp": 6, "attention.kv_split": 2, "dense.tp": 3, "lm_head.tp": 2},
    "split 2, cp 2, dp 2": {"attention.tp": 2, "attention.kv_split": 2, "attention.cp": 2, "attention.dp": 2},
    "cp 2 of tp 3": {"attention.tp": 3, "attention.cp": 2, "o_proj.tp": 6, "embedding.tp": 1},
    "helix": {"attention.cp": 4, "dense.tp": 4, "o_proj.tp": 4, "lm_head.tp": 4, "embedding.tp": 4},
    "cp 3 over stages": {"attention.cp": 3, "pipeline.stages": 2, "lm_head.tp": 3},
}


@pytest.mark.parametrize("name", LARGER)
@pytest.mark.parametrize("variant", ["biased", "latent"])
def test_sample_of_larger_worlds(variant: str, name: str, model: Models) -> None:
    case = model(variant, EXACT)
    given = LARGER[name] | ({"experts.slots": 8} if variant == "latent" and name.startswith("split") else {})
    layout = legal(variant, given, case)
    assert layout is not None or (variant == "biased" and name.startswith("split"))
    assert layout is None or not differs(case, layout)


@pytest.mark.parametrize("given", [{"attention.cp": 2}, {"attention.tp": 4, "attention.kv_split": 2}], ids=str)
def test_long_prompts_in_chunks_and_whole(given: Given, model: Models) -> None:
    """Several blocks of each owner; the chunks of a budget of 40 end inside them, and inside a window."""
    case = model("window", EXACT)
    layout = legal("window", given, case)
    assert layout is not None
    wanted = of_one_rank(case.path, EXACT, LONG)
    for budget in (40, LONG.budget):
        found = run_workload(make_executor(case.path, layout, EXACT), replace(LONG, budget=budget))
        assert same_bits(found, wanted), budget


SHARED: dict[str, Given] = {
    "cp": {"attention.cp": 3},
    "split": {"attention.tp": 3, "attention.kv_split": 3},
}


@pytest.mark.parametrize("name", SHARED)
def test_rows_are_the_same_in_any_batch(name: str, model: Models) -> None:
    """On weights that are not exact: whatever runs beside a request, and however its prompt is cut."""
    case = model("window", FP64)
    layout = legal("window", SHARED[name], case)
    assert layout is not None and invariant(case, layout)


def invariant(model: Model, layout: Layout) -> bool:
    found = [run_workload(make_executor(model.path, layout, FP64), work) for work in (APART, TOGETHER)]
    return same_bits(*found)


def test_preempted_and_cached_prompts(model: Models) -> None:
    """A pool of few blocks, in which requests are set back, and prompts that begin alike."""
    case = model("window", EXACT)
    first = random_prompts((24,), 101, seed=9)[0]
    prompts = (first, (*first[:18], 7), *random_prompts((20, 21), 101, seed=3))
    work = Workload(prompts, (0, 6, 7, 8), max_tokens=12, budget=16)
    wanted = of_one_rank(case.path, EXACT, work)
    shared: list[Given] = [{"attention.cp": 2}, {"attention.tp": 2, "attention.kv_split": 2}]
    for given in shared:
        layout = legal("window", given, case)
        assert layout is not None
        executor = make_executor(case.path, layout, EXACT)
        executor.limits = replace(LIMITS, num_blocks=11)
        assert same_bits(run_workload(executor, work), wanted)


@pytest.fixture(scope="module")
def ties(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """All scores are equal: the weights of q are 0. Quotients then fall on the middle between two grid points."""
    path = write_exact(tmp_path_factory.mktemp("ties"), "latent", changed=lambda name, x: x * ("q_b_proj" not in name))
    return Model(path, EXACT, of_one_rank(path, EXACT, APART))


@pytest.mark.parametrize("name", SHARED)
def test_exact_ties(name: str, ties: Model) -> None:
    layout = legal("latent", SHARED[name], ties)
    assert layout is not None and not differs(ties, layout, TOGETHER)


# -- faults


def owner_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """Keys are written by the next owner, and read where they should be."""
    patch.setattr(KVOwners, "owner", lambda self, positions: (positions // self.block_size + 1) % self.count)


def oldest_block_dropped(patch: pytest.MonkeyPatch) -> None:
    original = KeyShare.positions

    def faulty(self: KeyShare, places: Tensor, block_size: int) -> Tensor:
        found = original(self, places, block_size)
        return torch.where(found < block_size, found + 10**6, found)

    patch.setattr(KeyShare, "positions", faulty)


def divided_first(patch: pytest.MonkeyPatch) -> None:
    """A part's sums are divided before they are added up."""
    original = seam.merge_partials

    def faulty(parts: Sequence[Tensor], heads: int) -> Tensor:
        divided = []
        for part in parts:
            each = part.unflatten(1, (heads, -1)).clone()
            total = each[..., -1:].clone()
            each[..., :-2] /= total.masked_fill(total == 0, 1)
            each[..., -2:-1] += total.log()
            each[..., -1:] = (total > 0).double()
            divided.append(each.flatten(1))
        return original(divided, heads)

    patch.setattr(seam, "merge_partials", faulty)


def merged_in_arrival_order(patch: pytest.MonkeyPatch) -> None:
    original, draw = KVExchange.partials, random.Random(0)

    def faulty(self: KVExchange, *args: Any) -> list[Tensor]:
        parts = original(self, *args)
        return draw.sample(parts, len(parts))

    patch.setattr(KVExchange, "partials", faulty)


@pytest.mark.parametrize("fault", [owner_off_by_one, oldest_block_dropped])
@pytest.mark.parametrize("name", SHARED)
def test_wrong_keys_turn_the_suite_red(
    fault: Callable[[pytest.MonkeyPatch], None], name: str, model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = model("window", EXACT)
    layout = legal("window", SHARED[name], case)
    assert layout is not None
    fault(monkeypatch)
    assert differs(case, layout)


@pytest.mark.parametrize("name", SHARED)
def test_dividing_first_turns_ties_red(name: str, ties: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = legal("latent", SHARED[name], ties)
    assert layout is not None
    divided_first(monkeypatch)
    assert differs(ties, layout, TOGETHER)


def test_arrival_order_turns_the_invariance_of_rows_red(model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    case = model("window", FP64)
    layout = legal("window", SHARED["cp"], case)
    assert layout is not None
    merged_in_arrival_order(monkeypatch)
    assert not invariant(case, layout)


def test_owners_have_blocks_in_turn() -> None:
    owners = KVOwners(cp=2, kv_split=3, block_size=4)
    positions = np.arange(100)
    assert owners.owner(positions).tolist() == [position // 4 % 6 for position in range(100)]
    assert owners.cp_of(positions).tolist() == [position // 4 % 6 // 3 for position in range(100)]
    places, size = torch.arange(32), 4
    held = [KeyShare(owner, 6).positions(places, size).tolist() for owner in range(6)]
    assert sorted(itertools.chain.from_iterable(held)) == list(range(6 * 32))
    assert all((owners.owner(np.asarray(mine)) == owner).all() for owner, mine in enumerate(held))
