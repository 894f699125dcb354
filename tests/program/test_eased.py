"""Whom a rank helps ahead of its own attention: who has more heads, with queries, keys and values of few rows."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.program.test_last_layer import GREEDY, LIMITS, decode, prefill
from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.arch import Shards, parse_config
from weft.checkpoint import open_checkpoint
from weft.comm.shm.shared_memory import SharedMemoryComm
from weft.layout.cuts import HeadShare, deal_heads
from weft.layout.resolve import resolve
from weft.native.records import Op
from weft.ops.base import Numerics
from weft.program.eased import eased_by
from weft.step.plan import Admit, GroupPlan, Run, StepPlan

CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32)
MOST_ROWS = 32
LAYERS = 2


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        (deal_heads(9, 3, 2, "groups"), [None, 0]),
        (deal_heads(9, 3, 3, "groups"), [None, None, None]),
        (deal_heads(9, 9, 4, "groups"), [None, 0, 0, 0]),
        (deal_heads(10, 10, 4, "groups"), [None, None, 0, 1]),
        (deal_heads(9, 3, 1), [None]),
    ],
)
def test_who_has_fewer_heads_helps_one_of_those_who_have_the_most(
    shares: tuple[HeadShare, ...], found: list[int | None]
) -> None:
    assert [eased_by(shares, position) for position in range(len(shares))] == found


class Calls:
    """The ranks that each rank has helped ahead of its attention, a call each; they are helped all the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: dict[int, list[int]] = {}
        self._kept: list[object] = []
        plain = SharedMemoryComm.end.fget
        assert plain is not None

        def noted(comm: SharedMemoryComm) -> object:
            record, groups = plain(comm)
            calls, original = self.of.setdefault(comm.rank, []), CALL(record.ease)

            def ease(handle: int, rank: int) -> None:
                calls.append(rank)
                original(handle, rank)

            self._kept.append(CALL(ease))
            record.ease = ctypes.cast(self._kept[-1], ctypes.c_void_p).value  # type: ignore[arg-type]
            return record, groups

        monkeypatch.setattr(SharedMemoryComm, "end", property(noted))

    def taken(self) -> dict[int, list[int]]:
        found = {rank: list(calls) for rank, calls in self.of.items() if calls}
        for calls in self.of.values():
            calls.clear()
        return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    need("step", "comm")
    yield Calls(monkeypatch)


def made(path: Path, world: int, given: dict[str, object], helps: bool = True) -> ProgramExecutor:
    checkpoint = open_checkpoint(path)
    config = parse_config(checkpoint.config)
    shards = Shards(config, resolve({"attention.split": "groups", **given}, world, num_experts=config.num_experts))
    return ProgramExecutor(checkpoint, shards, Numerics(torch.bfloat16), LIMITS, helps)


def marked(executor: ProgramExecutor) -> list[list[tuple[Op, int]]]:
    """By rank: the instructions that stand behind those that help, and whom these help."""
    found = []
    for runner in executor.runners:
        code = runner.program.program.instructions  # type: ignore[union-attr]
        found.append([(code[at + 1].op, each.eases) for at, each in enumerate(code) if each.eases is not None])
    return found


@pytest.mark.parametrize(
    ("world", "given", "whom"),
    [
        (2, {"attention.tp": 2}, {1: 0}),
        (3, {"attention.tp": 3}, {}),
        (1, {}, {}),
        (2, {"attention.dp": 2}, {}),
        (4, {"attention.tp": 2, "attention.dp": 2, "o_proj.tp": 4, "dense.tp": 4, "lm_head.tp": 4}, {1: 0, 3: 2}),
    ],
    ids=str,
)
def test_the_products_ahead_of_attention_are_helped_with(
    world: int, given: dict[str, object], whom: dict[int, int], tmp_path: Path, calls: Calls
) -> None:
    executor = made(write_random(tmp_path / "model", "biased"), world, given)
    try:
        assert marked(executor) == [[(Op.QKV, whom[rank])] * LAYERS if rank in whom else [] for rank in range(world)]
        groups = executor.shards.layout.attention.dp
        executor.step(prefill(groups, scored=False))
        assert calls.taken() == {rank: [eased] * LAYERS for rank, eased in whom.items()}
        executor.step(decode(groups))
        assert calls.taken() == {rank: [eased] * LAYERS for rank, eased in whom.items()}
    finally:
        executor.close()


@pytest.mark.parametrize("rows", [MOST_ROWS, MOST_ROWS + 1])
def test_of_many_rows_attention_is_more_work_and_nobody_is_helped(rows: int, tmp_path: Path, calls: Calls) -> None:
    executor = made(write_random(tmp_path / "model", "biased"), 2, {"attention.tp": 2})
    try:
        ids = [7 * place % 101 for place in range(rows)]
        group = GroupPlan([Admit(0, ids, [], GREEDY, 0)], [Run(0, 0, rows, ids, [1, 2, 3], True)])
        executor.step(StepPlan(0, [group]))
        assert calls.taken() == ({1: [0] * LAYERS} if rows == MOST_ROWS else {})
    finally:
        executor.close()


def test_nobody_is_helped_where_nothing_is_open(tmp_path: Path, calls: Calls) -> None:
    executor = made(write_random(tmp_path / "model", "biased"), 2, {"attention.tp": 2}, helps=False)
    try:
        executor.step(prefill(1, scored=False))
        assert calls.taken() == {}
    finally:
        executor.close()
