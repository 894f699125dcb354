"""Lockstep: what it compares, what it says when no rank can go on, and that it can be run again after all that."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from weft.base.errors import DeadlockError, PeerError
from weft.compute.comm.base import Comm
from weft.compute.comm.lockstep import LockstepComm, LockstepWorld

ALL = (0, 1, 2)


def world() -> LockstepWorld:
    return LockstepWorld(3, [ALL, (0, 1), (1, 2)])


def test_results_come_in_rank_order() -> None:
    assert world().run([lambda comm: comm.rank * 10] * 3) == [0, 10, 20]


def test_ranks_meet_in_different_groups() -> None:
    def work(comm: LockstepComm) -> float:
        x = torch.full((1,), 10.0**comm.rank)
        if comm.rank < 2:
            comm.all_reduce(x, (0, 1))
        if comm.rank > 0:
            comm.all_reduce(x, (1, 2))
        comm.all_reduce(x, ALL)
        return x.item()

    lockstep = world()
    for _ in range(3):
        assert lockstep.run([work] * 3) == [11.0 + 111 + 111] * 3


def test_members_do_not_share_memory() -> None:
    def work(comm: LockstepComm) -> float:
        x = comm.all_reduce(torch.ones(1), ALL)
        x.add_(comm.rank)
        comm.barrier(ALL)
        return x.item()

    assert world().run([work] * 3) == [3.0, 4.0, 5.0]


def test_deadlock_names_every_waiting_rank_and_its_collective() -> None:
    def work(comm: LockstepComm) -> None:
        if comm.rank == 0:
            comm.all_reduce(torch.ones(1), (0, 1))
        if comm.rank == 1:
            comm.barrier(ALL)
        # rank 2 returns

    with pytest.raises(DeadlockError) as raised:
        world().run([work] * 3)
    text = str(raised.value)
    assert "rank 0 waits in all_reduce over (0, 1), call 1, for rank 1" in text
    assert "rank 1 waits in barrier over (0, 1, 2), call 1, for ranks 0, 2" in text
    assert "rank 2 ended" in text


def test_deadlock_of_a_cycle() -> None:
    lockstep = LockstepWorld(3, [(0, 1), (1, 2), (0, 2)])
    first = {0: (0, 1), 1: (1, 2), 2: (0, 2)}

    def work(comm: LockstepComm) -> None:
        comm.barrier(first[comm.rank])

    with pytest.raises(DeadlockError, match="rank 0 waits.*rank 1 waits.*rank 2 waits"):
        lockstep.run([work] * 3)


@pytest.mark.parametrize(
    ("odd", "wanted"),
    [
        (lambda comm: comm.barrier(ALL), "different collectives.*rank 1: barrier"),
        (lambda comm: comm.all_reduce(torch.ones(5), ALL), r"rank 1: all_reduce \(float32 \[5\]\)"),
        (lambda comm: comm.all_reduce(torch.ones(4, dtype=torch.float64), ALL), r"float64 \[4\]"),
        (lambda comm: comm.all_reduce(torch.ones(2, 2), ALL), r"float32 \[2, 2\]"),
    ],
)
def test_disagreement_names_both_calls(odd: Any, wanted: str) -> None:
    def work(comm: LockstepComm) -> None:
        comm.barrier(ALL)
        if comm.rank == 1:
            odd(comm)
        else:
            comm.all_reduce(torch.ones(4), ALL)

    with pytest.raises(PeerError, match=wanted) as raised:
        world().run([work] * 3)
    assert "ranks 0, 1, 2 disagree at call 2 over (0, 1, 2)" in str(raised.value)
    assert r"rank 0: all_reduce (float32 [4])" in str(raised.value)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_to_all"])
def test_uneven_parts_must_fit_pairwise(kind: str) -> None:
    def work(comm: LockstepComm) -> None:
        wrong = 1 if comm.rank == 2 else 0
        xs = [torch.ones(2 + wrong * (i == 0), 3) for i in range(3)]
        outs = [torch.empty(2, 3) for _ in range(3)]
        if kind == "all_gather":
            comm.all_gather(xs[0], outs, ALL)
        elif kind == "reduce_scatter":
            comm.reduce_scatter(xs, outs[0], ALL)
        else:
            comm.all_to_all(xs, outs, ALL)

    with pytest.raises(PeerError, match=r"float32 \[3, 3\]"):
        world().run([work] * 3)


def test_an_exception_ends_the_others_and_carries_its_rank() -> None:
    ended = []

    def work(comm: LockstepComm) -> None:
        try:
            comm.barrier(ALL)
            if comm.rank == 1:
                raise ArithmeticError("mine")
            comm.barrier(ALL)
        finally:
            ended.append(comm.rank)

    lockstep = world()
    with pytest.raises(ArithmeticError, match="mine") as raised:
        lockstep.run([work] * 3)
    assert raised.value.__notes__ == ["in rank 1 of 3"]
    assert sorted(ended) == [0, 1, 2]
    assert lockstep.run([lambda comm: comm.all_reduce(torch.ones(1), ALL).item()] * 3) == [3.0] * 3


def test_runs_again_after_a_deadlock() -> None:
    lockstep = world()

    def only_rank_0(comm: Comm) -> None:
        if comm.rank == 0:
            comm.barrier(ALL)

    with pytest.raises(DeadlockError):
        lockstep.run([only_rank_0] * 3)
    assert lockstep.run([lambda comm: comm.all_reduce(torch.ones(1), ALL).item()] * 3) == [3.0] * 3


def test_inference_mode_holds_on_every_rank() -> None:
    def work(comm: LockstepComm) -> list[bool]:
        seen = []
        for _ in range(3 - comm.rank):
            with torch.inference_mode():
                comm.barrier(ALL)
                seen.append(torch.is_inference_mode_enabled())
        for _ in range(comm.rank):
            comm.barrier(ALL)
        return seen

    assert all(all(seen) for seen in world().run([work] * 3))
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("groups", [[(0,)], [(1, 0)], [(0, 0)], [(0, 3)], [(-1, 0)], [(0, 1), (0, 1)]])
def test_impossible_groups_are_refused(groups: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="group"):
        LockstepWorld(3, groups)


def test_wrong_number_of_functions() -> None:
    with pytest.raises(ValueError, match="2 functions for a world of 3"):
        world().run([lambda comm: None] * 2)


def test_a_world_runs_once_at_a_time() -> None:
    lockstep = world()
    with pytest.raises(ValueError, match="running already"):
        lockstep.run([lambda comm: lockstep.run([lambda other: None] * 3)] * 3)


def test_two_worlds_in_one_process() -> None:
    inner = world()

    def work(comm: LockstepComm) -> list[float]:
        comm.barrier(ALL)
        found = inner.run([lambda other: other.all_reduce(torch.ones(1), ALL).item()] * 3)
        comm.barrier(ALL)
        return found

    assert world().run([work] * 3) == [[3.0] * 3] * 3
