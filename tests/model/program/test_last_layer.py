"""The last layer goes on with the sampled rows alone: how many rows each instruction has, and logits bit by bit.

The answer key is the whole computation: a prompt whose every row is scored leaves none out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.base.errors import WeftError
from weft.base.step.plan import GroupPlan, NewRequest, ScheduledRequest, StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.compute.ops.operations.attention import TABLE
from weft.compute.ops.operations.table import Op
from weft.model.checkpoint import open_checkpoint
from weft.model.program.ir import TABLES, Rows
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.placement import full
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.runtime.worker.tensors.step_shape import Geometry, shape_of
from weft.tools.verify.record import Parts
from weft.tools.verify.trace import trace

GREEDY = SamplingParams(temperature=0.0)
SCORED = SamplingParams(temperature=0.0, prompt_logprobs=0)
LIMITS = RankCapacity(num_blocks=16, block_size=16, max_num_seqs=8, max_model_len=64)
PROMPTS = ([5, 9, 2, 7, 1, 8, 3], [4], [6, 6, 1])
EARLY: list[tuple[str, int, dict[str, object]]] = [
    ("biased", 1, {}),
    ("biased", 2, {"attention.tp": 2}),
    ("biased", 2, {"attention.dp": 2, "o_proj.tp": 2, "dense.tp": 2, "lm_head.tp": 2}),
    ("experts", 2, {"attention.dp": 2, "experts.dispatch": "all_to_all"}),
    ("latent", 2, {"attention.tp": 2, "o_proj.tp": 2, "dense.tp": 2, "experts.tp": 2, "experts.ep": 1}),
]
"""Attention takes its rows as the residual stream holds them."""
LATE: list[tuple[str, int, dict[str, object]]] = [
    ("biased", 2, {"attention.tp": 2, "dense.tp": 1}),
    ("biased", 4, {"attention.tp": 2, "attention.dp": 2, "o_proj.tp": 4, "dense.tp": 2, "lm_head.tp": 4}),
    ("latent", 2, {"attention.tp": 2, "experts.dispatch": "all_to_all"}),
]
"""The residual stream is scattered over attention's ranks."""


@contextmanager
def executor_of(
    path: Path, world: int, given: dict[str, object], dtype: torch.dtype, *, program: bool
) -> Iterator[LockstepExecutor]:
    checkpoint = open_checkpoint(path)
    config = parse_config(checkpoint.config)
    shards = Shards(config, resolve(given, world, num_experts=config.num_experts))
    if program:
        made: LockstepExecutor = ProgramExecutor(checkpoint, shards, Numerics(dtype), LIMITS)
    else:
        made = LockstepExecutor(checkpoint, shards, Numerics(dtype), LIMITS, torch.device("cpu"))
    try:
        yield made
    finally:
        made.close()


def table(slot: int, prompts: Sequence[Sequence[int]]) -> list[int]:
    """Blocks of a slot: as many for each as the longest prompt and a token more take."""
    each = max(map(len, prompts)) // LIMITS.block_size + 1
    return list(range(slot * each + 1, (slot + 1) * each + 1))


def prefill(groups: int, *, scored: bool, prompts: Sequence[list[int]] = PROMPTS) -> StepPlan:
    """Every prompt whole, in every group; the last row of each is sampled, the others scored or not."""
    runs = [
        ScheduledRequest(slot, 0, len(ids), ids, table(slot, prompts), True, targets=ids[1:] if scored else [])
        for slot, ids in enumerate(prompts)
    ]
    admits = [NewRequest(slot, ids, [], SCORED if scored else GREEDY, 0) for slot, ids in enumerate(prompts)]
    return StepPlan(0, [GroupPlan(list(admits), list(runs)) for _ in range(groups)])


def decode(groups: int, prompts: Sequence[list[int]] = PROMPTS) -> StepPlan:
    """A row of every prompt beside a chunk of the first, which is not sampled."""
    runs = [ScheduledRequest(slot, len(ids), 1, [], table(slot, prompts), True, 1) for slot, ids in enumerate(prompts)]
    chunk = ScheduledRequest(3, 0, 4, prompts[0][:4], table(3, prompts), False)
    admit = NewRequest(3, prompts[0], [], GREEDY, 0)
    return StepPlan(1, [GroupPlan([admit], [*runs, chunk]) for _ in range(groups)])


def last_of(prompts: Sequence[Sequence[int]], groups: int) -> list[int]:
    """Numbers of the prompts' last rows among all rows of the groups."""
    ends = torch.tensor([len(ids) for _ in range(groups) for ids in prompts]).cumsum(0)
    found: list[int] = (ends - 1).tolist()
    return found


def logits_of(made: LockstepExecutor, *, scored: bool, prompts: Sequence[list[int]] = PROMPTS) -> tuple[Tensor, Tensor]:
    groups, parts = made.layout.attention.dp, Parts(made, only="lm_head")
    made.step(prefill(groups, scored=scored, prompts=prompts))
    first = parts.whole("lm_head")
    made.step(decode(groups, prompts))
    return first[last_of(prompts, groups)] if scored else first, parts.whole("lm_head")


@pytest.mark.parametrize("program", [False, True], ids=["eager", "program"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("variant", "world", "given"), [*EARLY, *LATE], ids=str)
def test_logits_are_those_of_the_whole_computation(
    variant: str, world: int, given: dict[str, object], dtype: torch.dtype, program: bool, tmp_path: Path
) -> None:
    need("step", "comm")
    path, found = write_random(tmp_path, variant), []
    for scored in (True, False):
        with executor_of(path, world, given, dtype, program=program) as made:
            found.append(logits_of(made, scored=scored))
    assert len(found[1][0]) == len(PROMPTS) * made.layout.attention.dp
    assert all(torch.equal(whole, some) for whole, some in zip(*found, strict=True))


@pytest.mark.parametrize(("variant", "world", "given"), [*EARLY, *LATE], ids=str)
def test_every_instruction_behind_the_selection_has_sampled_rows(
    variant: str, world: int, given: dict[str, object], tmp_path: Path
) -> None:
    need("step", "comm")
    with executor_of(write_random(tmp_path, variant), world, given, torch.float32, program=True) as made:
        for runner in made.runners:
            assert runner.program is not None
            code = runner.program.program.instructions
            (at,) = (index for index, each in enumerate(code) if each.op is Op.SELECT)
            assert {each.out.buffer.rows.table for each in code[:at]} == {"rows"}
            assert {each.out.buffer.rows.table for each in code[at:]} == {"sampled"}
            attended = [index for index, each in enumerate(code) if each.op is Op.ATTENTION]
            early = (variant, world, given) in EARLY
            assert (attended[-1] > at) == early and len(code[at].inputs) == (2 if early else 1)
            by_table = [each for each in code if each.op in (Op.ATTENTION, Op.DISPATCH)]
            assert all(TABLES[each.numbers[TABLE]] == each.out.buffer.rows.table for each in by_table)


@pytest.mark.parametrize(("variant", "world", "given"), [EARLY[1], LATE[0], LATE[1]], ids=str)
def test_modules_are_compared_row_by_row_wherever_rows_are_left_out(
    variant: str, world: int, given: dict[str, object], tmp_path: Path
) -> None:
    path = write_random(tmp_path, variant)
    with executor_of(path, 1, {}, torch.float32, program=False) as one:
        with executor_of(path, world, given, torch.float32, program=False) as other:
            assert trace(one, other, PROMPTS[0], 2e-4) is None


def test_a_prompt_of_seven_rows_has_one_in_the_last_mlp(tmp_path: Path) -> None:
    need("step")
    with executor_of(write_random(tmp_path, "biased"), 1, {}, torch.float32, program=True) as made:
        run = ScheduledRequest(0, 0, 7, PROMPTS[0], [1], True)
        made.step(StepPlan(0, [GroupPlan([NewRequest(0, PROMPTS[0], [], GREEDY, 0)], [run])]))
        assert made.runners[0].program is not None
        program = made.runners[0].program.program
        rows_of = {rows: program._step.rows[number] for number, rows in enumerate(program._registers)}
        assert rows_of == {Rows("rows", 0, 1): 7, Rows("sampled", 0, 1): 1}
        counts = [rows_of[each.out.buffer.rows] for each in program.instructions if each.op is Op.LINEAR]
        layers = len(made.runners[0].caches)
        # qkv, o_proj, gate_up, down of each layer, then lm_head: of the last layer only qkv has all rows
        assert counts == [7] * (4 * (layers - 1) + 1) + [1] * 4


def test_a_step_that_samples_all_rows_has_nothing_to_select() -> None:
    geometry = Geometry(resolve({}), 0, 16, torch.device("cpu"), full(1))
    streams, chunk = (3, ((2, True, 1),)), (3, ((2, True, 0),))
    every, some = shape_of(streams, (5,), (), b"", geometry), shape_of(chunk, (5,), (4,), b"", geometry)
    assert every.sampled_ends is every.row_ends and every.sampled_rows.tolist() == [0, 1, 2, 3, 4]
    assert some.sampled_ends == (1, 2, 3, 4) and some.sampled_rows.tolist() == [0, 1, 2, 4]


def test_scored_rows_apart_from_the_sampled_one_are_refused() -> None:
    geometry = Geometry(resolve({}), 0, 16, torch.device("cpu"), full(1))
    with pytest.raises(WeftError, match="a run of 4 rows with 2 scored ones that end before the sampled one"):
        shape_of((0, ((4, True, 2),)), (4,), (3,), b"", geometry)
