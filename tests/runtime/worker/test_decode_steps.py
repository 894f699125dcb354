"""Decode steps the short way give what the general path gives: every input, logits, ids, records, bit by bit."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from torch import Tensor

from tests.runtime.worker.decode_cases import (
    DRAWN,
    GREEDY,
    LAYOUTS,
    LIMITS,
    MANY,
    REQUESTS,
    SHARED,
    Request,
    admitted,
    serve,
    streams,
)
from tests.support.exact_model import write_random
from tests.support.fakes.uncounted import Uncounted
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.base.errors import WeftError
from weft.base.step.plan import GroupPlan, StepPlan, StepResult
from weft.compute.native.records import Chose
from weft.compute.native.runtime_records import DecodeRecord
from weft.compute.native.step_library import open_library
from weft.compute.ops.base import Numerics
from weft.model.checkpoint import open_checkpoint
from weft.model.models.decoder import Batch
from weft.model.program.build import RankProgram
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.boundaries import KeyGather
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.rank_plans import RankPlans
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.runner import Runner


def suits_bounds() -> bool:
    """Whether this CPU's best variant looks at bounds."""
    library = open_library()
    return library is not None and bool(library.weft_suits_argmax_pruning())


class Watched(RankProgram):
    """Notes what each step of the program reads, and its logits."""

    def __init__(self, runner: Runner) -> None:
        assert runner.program is not None
        super().__init__(runner.program.program, runner.program._comm, runner.program._block)
        self.seen: list[Any] = []
        self.short = self.largest = 0
        """Decode steps, and those that brought no logits together."""

    def run(self, batch: Batch, decode: DecodeRecord | None = None) -> Tensor:
        logits = super().run(batch, decode)
        self.short += decode is not None
        without = decode is not None and decode.chose == Chose.LARGEST
        self.largest += without
        self.seen = [*self._read(batch), None if without else logits.clone()]
        return logits

    def _read(self, batch: Batch) -> Iterator[object]:
        step = self.program._step
        ends = read(step.row_ends, step.runs, ctypes.c_int32)
        sampled = read(step.sampled_row_ends, step.runs, ctypes.c_int32)
        rows, chosen = ends[-1] if ends else 0, sampled[-1] if sampled else 0
        yield from (
            batch.rows.starts,
            batch.sampled.starts,
            batch.sampled_rows.tolist(),
            ends,
            sampled,
            step.table_width,
        )
        yield from (list(step.rows), read(step.ids, rows, ctypes.c_int64))
        yield from (read(each, rows, ctypes.c_int32) for each in (step.positions, step.slots, step.run_of_row))
        yield read(step.sampled_positions, chosen, ctypes.c_int32)
        yield read(step.block_tables, step.runs * step.table_width, ctypes.c_int32)
        yield step.sampled_rows == batch.sampled_rows.data_ptr()


def read(address: int | None, count: int, kind: Any) -> list[int]:
    return list((kind * count).from_address(address)) if address and count else []


class Both(Uncounted):
    """An executor that runs every plan both ways and compares."""

    def __init__(self, short: ProgramExecutor, general: ProgramExecutor) -> None:
        self.executors = short, general
        self.layout: Layout = short.layout
        self.num_blocks = short.num_blocks
        for executor in self.executors:
            for runner in executor.runners:
                runner.program = Watched(runner)
        for runner in general.runners:
            runner.decode = None

    def step(self, plan: StepPlan) -> StepResult:
        results = [executor.step(plan) for executor in self.executors]
        assert results[0] == results[1], plan
        for rank, pair in enumerate(zip(*(executor.runners for executor in self.executors), strict=True)):
            self._compare(rank, *pair)
        return results[0]

    def _compare(self, rank: int, short: Runner, general: Runner) -> None:
        programs = [runner.program for runner in (short, general)]
        (*inputs, logits), (*wanted, wanted_logits) = (each.seen for each in programs if isinstance(each, Watched))
        assert inputs == wanted, f"rank {rank}"
        assert logits is None or torch.equal(logits.nan_to_num(7e7), wanted_logits.nan_to_num(7e7)), f"rank {rank}"
        assert torch.equal(short.last_ids, general.last_ids) and short.rows == general.rows
        assert programs[1].short == 0  # type: ignore[union-attr]

    @property
    def short_steps(self) -> list[int]:
        """Of every rank."""
        return [runner.program.short for runner in self.executors[0].runners]  # type: ignore[union-attr]

    @property
    def largest_steps(self) -> list[int]:
        """Those of every rank that brought no logits together."""
        return [runner.program.largest for runner in self.executors[0].runners]  # type: ignore[union-attr]

    def close(self) -> None:
        for executor in self.executors:
            executor.close()


@contextmanager
def both_ways(path: Path, world: int, given: dict[str, object], dtype: torch.dtype = torch.float32) -> Iterator[Both]:
    checkpoint = open_checkpoint(path)
    shards = Shards(parse_config(checkpoint.config), resolve(given, world))
    made = Both(*(ProgramExecutor(checkpoint, shards, Numerics(dtype), LIMITS) for _ in range(2)))
    try:
        yield made
    finally:
        made.close()


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("step", "comm")
    return write_random(tmp_path_factory.mktemp("model"), "biased")


@pytest.mark.parametrize(("world", "layout"), LAYOUTS, ids=str)
@DTYPES
def test_both_ways_give_the_same(world: int, layout: dict[str, object], dtype: torch.dtype, model: Path) -> None:
    with both_ways(model, world, layout, dtype) as executor:
        serve(executor, MANY)
        assert min(executor.short_steps) > 8


@pytest.fixture(scope="module")
def one_kv_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("step", "comm")
    return write_random(tmp_path_factory.mktemp("model"), "window")


@pytest.mark.parametrize(("world", "layout"), SHARED, ids=str)
@DTYPES
def test_ranks_that_share_contexts_give_the_same(
    world: int,
    layout: dict[str, object],
    dtype: torch.dtype,
    one_kv_head: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(KeyGather, "chosen", lambda *_, **__: False)  # steps that gather run no program
    with both_ways(one_kv_head, world, layout, dtype) as executor:
        serve(executor, MANY)
        assert min(executor.short_steps) > 8


@pytest.mark.parametrize(("world", "layout"), [LAYOUTS[0], LAYOUTS[1], LAYOUTS[3]], ids=str)
@pytest.mark.parametrize("count", [12, pytest.param(60, marks=pytest.mark.long)])
def test_any_requests_are_served_alike_both_ways(
    count: int, world: int, layout: dict[str, object], model: Path
) -> None:
    with both_ways(model, world, layout) as executor:

        @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
        @given(REQUESTS)
        @example(MANY)
        def check(requests: list[Request]) -> None:
            serve(executor, requests)

        check()
        assert min(executor.short_steps) > 8


@DTYPES
@pytest.mark.parametrize(("world", "layout"), LAYOUTS[:3], ids=str)
def test_a_logit_that_is_not_finite_is_told_alike(
    world: int, layout: dict[str, object], dtype: torch.dtype, model: Path
) -> None:
    with both_ways(model, world, layout, dtype) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        executor.step(StepPlan(1, [admitted(2, [4])]))
        for runner in (runner for each in executor.executors for runner in each.runners):
            runner.ropes[0].cos_sin[2] = torch.nan
        result = executor.step(StepPlan(2, [streams((2, 1, 1), (0, 2, 1))]))
        assert [record.slot for record in result.groups[0].extras] == [0]
        assert result.groups[0].extras[0].error is not None
        assert executor.short_steps == [1] * world


@pytest.mark.parametrize(("world", "layout"), LAYOUTS, ids=str)
def test_where_every_row_takes_its_largest_logit_a_block_brings_no_logits_together(
    world: int, layout: dict[str, object], model: Path
) -> None:
    with both_ways(model, world, layout) as executor:
        serve(executor, [(0, 3, 9, GREEDY), (0, 2, 9, GREEDY), (1, 1, 5, GREEDY)])
        within = executor.layout.attention.tp == executor.layout.lm_head.tp > 1
        assert executor.largest_steps == (executor.short_steps if within else [0] * world)


@pytest.mark.parametrize(("world", "layout"), LAYOUTS[1:3], ids=str)
def test_one_drawn_row_wants_the_logits_of_all(world: int, layout: dict[str, object], model: Path) -> None:
    with both_ways(model, world, layout) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        executor.step(StepPlan(1, [admitted(2, [4], DRAWN)]))
        executor.step(StepPlan(2, [streams((2, 1, 1), (0, 2, 1))]))
        assert executor.short_steps == [1] * world and executor.largest_steps == [0] * world
        executor.step(StepPlan(3, [streams((0, 3, 2))]))
        assert executor.largest_steps == [1] * world


def test_of_equal_logits_on_several_ranks_the_first_id_wins(model: Path) -> None:
    with both_ways(model, *LAYOUTS[1]) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        for runner in (runner for each in executor.executors for runner in each.runners):
            assert runner.decoder.norm is not None
            runner.decoder.norm.weight.zero_()  # all logits are 0
        executor.step(StepPlan(1, [streams((0, 2, 1))]))
        assert executor.largest_steps == [1, 1]
        assert [int(runner.last_ids[0]) for runner in executor.executors[0].runners] == [0, 0]


def test_a_table_that_becomes_wider_is_read_anew(model: Path) -> None:
    with both_ways(model, 1, {}) as executor:
        executor.step(StepPlan(0, [admitted(1, [5, 9])]))
        executor.step(StepPlan(1, [streams((1, 2, 1))]))
        executor.step(StepPlan(2, [streams((1, 3, 2), news=[(1, 1, list(range(2, 13)) + [2, 3, 4, 5])])]))
        executor.step(StepPlan(3, [streams((1, 4, 3))]))
        assert executor.short_steps == [3]


def test_one_group_decodes_while_the_other_reads_a_prompt_or_rests(model: Path) -> None:
    with both_ways(model, *LAYOUTS[3]) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9]), GroupPlan()]))
        executor.step(StepPlan(1, [streams((0, 2, 1)), admitted(3, [1, 2, 3])]))
        executor.step(StepPlan(2, [streams((0, 3, 2)), streams((3, 3, 1))]))
        executor.step(StepPlan(3, [GroupPlan(), streams((3, 4, 2), news=[(3, 1, [7])])]))
        assert executor.short_steps == [2, 2]


@pytest.mark.parametrize("row", [(4, 0, 0), (-1, 0, 0), (0, 32, 0), (0, -1, 0)])
def test_a_slot_or_position_that_there_is_not_is_refused(row: tuple[int, int, int], model: Path) -> None:
    with both_ways(model, 1, {}) as executor:
        runner = executor.executors[0].runners[0]
        before = runner.last_ids.clone()
        with pytest.raises(WeftError, match="beyond the slots"):
            runner.step(*RankPlans(1).split(StepPlan(0, [streams(row)])))
        assert torch.equal(runner.last_ids, before)
        executor.step(StepPlan(1, [admitted(0, [5, 9])]))
        executor.step(StepPlan(2, [streams((0, 2, 1))]))


def test_the_comparison_sees_a_wrong_input(model: Path) -> None:
    with both_ways(model, 1, {}) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        decode = executor.executors[0].runners[0].decode
        assert decode is not None
        decode._run_of_row[0] = 1
        decode._block_tables[:] = 1
        with pytest.raises(AssertionError, match="rank 0"):
            executor.step(StepPlan(1, [streams((0, 2, 1))]))


def test_a_rank_that_has_no_kernel_leaves_the_choice_to_the_general_path(model: Path) -> None:
    with both_ways(model, 1, {}) as executor:
        for each in executor.executors:
            each.runners[0].sampler.kernel = None
        serve(executor, MANY)
        decode = executor.executors[0].runners[0].decode
        assert executor.short_steps[0] > 8 and decode is not None and decode.record.sampling is None
