"""Ranks that deal sums and norms of rows among themselves give the bits of ranks that each do all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.program.test_last_layer import LIMITS, PROMPTS, decode, logits_of, prefill
from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.arch import Shards, parse_config
from weft.checkpoint import open_checkpoint
from weft.layout.resolve import resolve
from weft.native.records import SETTLES, Op
from weft.ops.base import Numerics
from weft.program import dealt_rows, passes
from weft.program.values import Buffer, Instruction, Recording, Rows, View
from weft.worker.runner import Limits

NEVER = 1 << 30


@dataclass(frozen=True)
class Dealt:
    """Prompts of a step, whether all their rows are scored, and from how many numbers on rows are dealt."""

    prompts: Sequence[list[int]]
    scored: tuple[bool, ...]
    numbers: int
    limits: Limits


FEW = Dealt(PROMPTS, (False, True), 1, LIMITS)
LONG_PROMPTS = ([7 * token % 97 for token in range(300)], [4], [6, 6, 1])
LONG = Dealt(LONG_PROMPTS, (False,), dealt_rows.NUMBERS, Limits(96, 16, max_num_seqs=8, max_model_len=512))
BLOCKS = {"attention.tp": 2, "attention.dp": 2, "o_proj.tp": 2, "dense.tp": 2, "lm_head.tp": 2}
LAYOUTS: list[tuple[str, int, dict[str, object]]] = [
    ("tied", 2, {"attention.tp": 2}),
    ("tied", 3, {"attention.tp": 3}),
    ("tied", 4, dict(BLOCKS)),
    ("experts", 2, {"attention.tp": 2, "experts.tp": 2, "experts.ep": 1}),
    ("latent", 2, {"attention.tp": 2, "o_proj.tp": 2, "dense.tp": 2, "experts.tp": 2, "experts.ep": 1}),
]


def executor(
    path: Path,
    world: int,
    given: dict[str, object],
    dtype: torch.dtype,
    helps: bool = False,
    limits: Limits = LIMITS,
) -> ProgramExecutor:
    checkpoint = open_checkpoint(path)
    config = parse_config(checkpoint.config)
    shards = Shards(config, resolve(given, world, num_experts=config.num_experts))
    return ProgramExecutor(checkpoint, shards, Numerics(dtype), limits, helps)


def dealt(made: ProgramExecutor) -> list[Instruction]:
    return [each for each in made.runners[0].program.program.instructions if each.dealt]  # type: ignore[union-attr]


def answers(
    made: ProgramExecutor, *, scored: bool, prompts: Sequence[list[int]] = PROMPTS
) -> tuple[tuple[Tensor, Tensor], list[int]]:
    """Logits of a step of prompts, then of streams beside a chunk, and the bytes that every rank received."""
    return logits_of(made, scored=scored, prompts=prompts), made.received()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    need("step", "comm")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=["fp32", "bf16", "fp64"])
@pytest.mark.parametrize(("variant", "world", "given"), LAYOUTS, ids=str)
@pytest.mark.parametrize("prompts", [FEW, LONG], ids=["few", "long"])
def test_no_bit_changes(
    prompts: Dealt,
    variant: str,
    world: int,
    given: dict[str, object],
    dtype: torch.dtype,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through slots, and where every rank's rows are read where they lie, while ranks that wait help. Rows are fewer
    than ranks, too: a prompt's last layer has one."""
    write_random(path, variant)
    for scored in prompts.scored:
        found = []
        for numbers, helps in ((prompts.numbers, False), (prompts.numbers, True), (NEVER, False)):
            monkeypatch.setattr(dealt_rows, "NUMBERS", numbers)
            made = executor(path, world, given, dtype, helps, prompts.limits)
            found.append(answers(made, scored=scored, prompts=prompts.prompts))
            marked = {each.op for each in dealt(made)}
            made.close()
        assert marked == {Op.ALL_REDUCE, Op.NORM, Op.ALL_GATHER}
        (logits, bytes_of), (in_place, bytes_in_place), (wanted, whole_bytes) = found
        assert all(map(torch.equal, logits, wanted)) and all(map(torch.equal, in_place, wanted))
        assert bytes_of == bytes_in_place != whole_bytes


def test_ranks_that_wait_help(path: Path) -> None:
    """Sooner or later; the suite's own limit ends it."""
    write_random(path, "tied")
    made = executor(path, 2, {"attention.tp": 2}, torch.bfloat16, helps=True)
    while not made.helped_ns():
        answers(made, scored=True)
    made.close()


@pytest.mark.parametrize(("variant", "world", "given"), LAYOUTS, ids=str)
def test_nobody_writes_where_others_still_read(
    variant: str, world: int, given: dict[str, object], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a gather and the next time that its ranks meet; with spans that end on the rank itself, somebody does."""
    write_random(path, variant)
    made = executor(path, world, given, torch.bfloat16)
    codes = [runner.program.program.instructions for runner in made.runners if runner.program is not None]
    made.close()
    assert sum(map(overwritten, codes)) == 0
    monkeypatch.setattr(passes, "read_until", lambda code: ())
    assert all(map(overwritten, codes))


def overwritten(code: Sequence[Instruction]) -> int:
    """How often an instruction of a placed program writes to rows that another rank may be reading."""
    places, _ = passes.place(Recording(tuple(code), code[-1].out), lambda rows: 64, [0] * len(code))
    found = 0
    for index, gather in enumerate(code):
        if gather.op is Op.ALL_GATHER and gather.dealt and not gather.numbers[SETTLES]:
            meeting = dealt_rows.next_meeting(code, index)
            assert meeting is not None and {*(code[meeting].exchange or ())} >= {*gather.dealt}
            lo, hi = span(places, gather.out.buffer)
            for later in code[index + 1 : meeting + 1]:
                for buffer in dealt_rows.written(later):
                    begin, end = span(places, buffer)
                    found += begin < hi and lo < end
    return found


def span(places: passes.Places, buffer: Buffer) -> tuple[int, int]:
    at = places.of[buffer.home]
    return at, at + 64 * buffer.home.columns * buffer.home.dtype.itemsize


def test_ranks_that_do_not_meet_again_wait_for_those_that_read() -> None:
    """The last gather of a program, also where only what a step may leave out follows."""
    rows, plan = Rows("rows", 0, 2), SimpleNamespace(group=(0, 1))
    part, normed, logits = (view(rows) for _ in range(3))

    def gather() -> Instruction:
        return Instruction(Op.ALL_GATHER, "norm", normed, (normed,), plan=plan, dealt=(0, 1))  # type: ignore[arg-type]

    def reduce(group: tuple[int, ...]) -> Instruction:
        ranks = SimpleNamespace(group=group)
        return Instruction(Op.ALL_REDUCE, "o_proj.out", part, (), plan=ranks)  # type: ignore[arg-type]

    product = Instruction(Op.LINEAR, "lm_head", logits, (normed,))
    last = [product, Instruction(Op.ALL_GATHER, "lm_head.out", logits, (logits,), plan=plan)]  # type: ignore[arg-type]

    def kept() -> Instruction:
        return Instruction(Op.SELECT, "", normed, (normed,))

    met = [reduce((0, 1))]
    for between, settles in (
        ([], 1),
        (met, 0),
        ([reduce((0,))], 1),
        ([reduce((0, 1, 2))], 0),
        ([kept(), *met], 1),
        ([*met, kept()], 0),
    ):
        code = [gather(), *between, gather(), *last]
        dealt_rows.settle(code)
        found = [each.numbers[SETTLES] for each in code if each.dealt]
        assert found == [settles, 1]


def test_a_stream_that_is_not_brought_together_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads it next would read rows of an earlier layer."""
    write_random(path, "tied")
    found = []
    for whole in (True, False):
        if not whole:
            monkeypatch.setattr(dealt_rows, "_next_touch", lambda code, start, view: None)
        monkeypatch.setattr(dealt_rows, "NUMBERS", 1)
        made = executor(path, 2, {"attention.tp": 2}, torch.float32)
        made.step(prefill(1, scored=False))
        found.append(answers(made, scored=False)[0])
        made.step(decode(1))
        made.close()
    assert not torch.equal(found[0][0], found[1][0])


def test_few_rows_are_everybodys() -> None:
    assert [dealt_rows.dealt_from(columns) for columns in (576, 4096, 1 << 20)] == [15, 2, 1]


def view(rows: Rows, dtype: torch.dtype = torch.float32) -> View:
    return View(Buffer(rows, 8, dtype), 0, 8)


def ops(code: Sequence[Instruction], result: View) -> list[tuple[Op, View]]:
    return [(each.op, each.out) for each in dealt_rows.deal_rows(code, result)]


def test_what_a_stage_passes_on_is_whole() -> None:
    """The stream is gathered behind the last norm that is dealt, if anything reads it then, or it is the answer."""
    rows, plan = Rows("rows", 0, 2), SimpleNamespace(group=(0, 1))
    stream, part, normed, other, behind = (view(rows) for _ in range(5))
    reduce = Instruction(Op.ALL_REDUCE, "o_proj.out", part, (), plan=plan)  # type: ignore[arg-type]
    norm = Instruction(Op.NORM, "norm", normed, (stream, part))
    product = Instruction(Op.LINEAR, "dense.up", other, (normed,))
    added = Instruction(Op.ADD, "", stream, (other,))
    pair = [(Op.ALL_REDUCE, part), (Op.NORM, normed), (Op.ALL_GATHER, normed)]
    assert ops([reduce, norm, product], other) == [*pair, (Op.LINEAR, other)]
    assert ops([reduce, norm, product], stream) == [*pair, (Op.ALL_GATHER, stream), (Op.LINEAR, other)]
    assert ops([reduce, norm, product, added], other)[:4] == [*pair, (Op.ALL_GATHER, stream)]
    reads_sums = Instruction(Op.LINEAR, "", behind, (part,))
    assert ops([reduce, norm, reads_sums], other) == [(Op.ALL_REDUCE, part), (Op.NORM, normed), (Op.LINEAR, behind)]
