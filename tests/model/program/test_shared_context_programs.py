"""Step programs of ranks that share the KV cache of a request: the bits of operations one by one, in any batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.equivalence.harness import LIMITS, MIXED, checkpoint_at, make_executor, run_workload, same_bits
from tests.equivalence.test_exact_context import APART, TOGETHER
from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.compute.comm.redistribute import Area
from weft.compute.ops.base import Numerics
from weft.compute.ops.operations.table import Op
from weft.model.program.owner_exchange import TracedKVExchange
from weft.model.program.tracing import TracingAttention
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.boundaries import KeyGather
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.rows import KVOwners
from weft.tools.verify.record import GreedyOutput

FP64 = Numerics(torch.float64)
NUMERICS = {"fp64": FP64, "bf16": Numerics(torch.bfloat16)}
LAYOUTS: dict[str, dict[str, object]] = {
    "split": {"attention.tp": 3, "attention.kv_split": 3},
    "split of tp": {"attention.tp": 4, "attention.kv_split": 2},
    "cp": {"attention.cp": 3},
    "cp of tp": {"attention.tp": 2, "attention.cp": 2},
    "both": {"attention.tp": 2, "attention.cp": 2, "attention.kv_split": 2},
    "dp": {"attention.dp": 2, "attention.cp": 2, "dense.tp": 4},
}
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def native() -> None:
    need("step", "comm")


def layout_of(path: Path, name: str) -> Layout:
    return resolve(LAYOUTS[name], num_experts=parse_config(checkpoint_at(path).config).num_experts)


def by_programs(path: Path, layout: Layout, works: Sequence[Any], numerics: Numerics) -> list[list[GreedyOutput]]:
    shards = Shards(parse_config(checkpoint_at(path).config), layout)
    with closing(ProgramExecutor(checkpoint_at(path), shards, numerics, LIMITS)) as executor:
        found = [run_workload(executor, work) for work in works]
        codes = [each.op for each in executor.runners[0].program.program.instructions]  # type: ignore[union-attr]
    assert Op.PARTIAL in codes and Op.MERGE in codes and Op.ATTENTION not in codes
    return found


@pytest.mark.parametrize("numerics", NUMERICS.values(), ids=NUMERICS)
@pytest.mark.parametrize(
    ("variant", "name"), [*(("window", name) for name in LAYOUTS), ("latent", "split of tp"), ("latent", "both")]
)
def test_programs_have_the_bits_of_operations_one_by_one(
    variant: str, name: str, numerics: Numerics, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Also where some steps gather keys, which no program does; of a step some dp groups may."""
    path = write_random(tmp_path, variant)
    layout, works = layout_of(path, name), (MIXED, APART, TOGETHER)
    mixed = by_programs(path, layout, works, numerics)
    monkeypatch.setattr(KeyGather, "chosen", lambda *_, **__: False)
    found = by_programs(path, layout, works, numerics)
    eager = [run_workload(make_executor(path, layout, numerics), work) for work in works]
    assert all(map(same_bits, found, eager)) and all(map(same_bits, mixed, eager))
    assert same_bits(found[1], found[2])


# -- faults, in programs alone


def owner_off_by_one(patch: Patch) -> None:
    patch.setattr(KVOwners, "owner", lambda self, positions: (positions // self.block_size + 1) % self.count)


def oldest_block_dropped(patch: Patch) -> None:
    """Of prompts of 60 tokens."""
    original = TracingAttention.forward

    def faulty(self: TracingAttention, q: Tensor, cache: Any, rows: Any, spec: Any, *, partial: bool) -> Tensor:
        shorter = replace(spec, window=spec.window - 4 if spec.window else 56)
        return original(self, q, cache, rows, shorter, partial=partial)

    patch.setattr(TracingAttention, "forward", faulty)


def merged_in_another_order(patch: Patch) -> None:
    """Every rank begins with its own part."""
    original = TracedKVExchange.partials

    def faulty(self: TracedKVExchange, *args: Any) -> list[Tensor]:
        found, sent = original(self, *args), self._tape.instructions[-1]
        plan, count = sent.plan, len(found)
        assert plan is not None and plan.keeps is not None
        width, (kept, place) = plan.columns // count, plan.keeps

        def at(number: int) -> Area:
            return replace(place, left=number * width, right=(number + 1) * width)

        turned = [None if area is None else at((n - self._position) % count) for n, area in enumerate(plan.takes)]
        sent.plan = replace(plan, takes=tuple(turned), keeps=(kept, at(0)))
        return found

    patch.setattr(TracedKVExchange, "partials", faulty)


@pytest.mark.parametrize("fault", [owner_off_by_one, oldest_block_dropped, merged_in_another_order])
@pytest.mark.parametrize(("variant", "name"), [("latent", "split"), ("window", "cp")])
def test_faults_turn_the_comparison_red(
    fault: Callable[[Patch], None], variant: str, name: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    path = write_random(tmp_path, variant)
    monkeypatch.setattr(KeyGather, "chosen", lambda *_, **__: False)
    layout = layout_of(path, name)
    eager = run_workload(make_executor(path, layout, FP64), APART)
    assert same_bits(by_programs(path, layout, [APART], FP64)[0], eager)
    fault(monkeypatch)
    assert not same_bits(by_programs(path, layout, [APART], FP64)[0], eager)
