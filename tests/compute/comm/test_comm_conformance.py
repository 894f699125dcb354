"""One test for all backends: every operation, dtype, group and row count gives the same bits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tests.compute.comm import comm_cases
from weft.compute.comm.lockstep import LockstepWorld
from weft.compute.comm.staged import StagedComm


@pytest.mark.parametrize("around", [None, StagedComm], ids=["plain", "staged"])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_lockstep(world: int, around: type[StagedComm] | None) -> None:
    cases = comm_cases.systematic(world) + comm_cases.drawn(world, 300, seed=world, most_rows=200)
    lockstep = LockstepWorld(world, comm_cases.groups_of(world))

    def run(comm: Any) -> list[str]:
        comm = comm if around is None else around(comm)
        return [text for case in cases if (text := comm_cases.check(comm, case))]

    assert list(itertools.chain(*lockstep.run([run] * world))) == []


@pytest.mark.parametrize("world", [2, 3, 4])
def test_between_processes(rank_host: Any, backend: str, world: int) -> None:
    # gloo takes milliseconds a call: a share of the systematic cases
    share = {"first": 0, "every": 1} if backend != "gloo" else {"first": 0, "every": 2 * world - 3}
    drawn = {"drawn": 400, "most_rows": 3000} if backend != "gloo" else {"drawn": 60, "most_rows": 500}
    outcome = rank_host.run(backend, world, "conformance", seed=world, **share, **drawn)
    assert [rank.get("error") for rank in outcome["ranks"]] == [None] * world
    for rank in outcome["ranks"]:
        assert rank["value"][1:] == []
        assert int(rank["value"][0].split()[0]) > 100


@pytest.mark.parametrize("world", [2, 3])
def test_debug_runs_give_the_same(rank_host: Any, backend: str, world: int) -> None:
    outcome = rank_host.run(
        backend, world, "conformance", debug=True, seed=9, first=1, every=11, drawn=40, most_rows=300
    )
    assert [rank["value"][1:] for rank in outcome["ranks"]] == [[]] * world


@pytest.mark.parametrize("piece_bytes", [4096, 256 << 10])
def test_shares_of_large_sums(rank_host: Any, native_comm: None, piece_bytes: int) -> None:
    outcome = rank_host.run(
        "shared_memory", 3, "conformance", piece_bytes=piece_bytes, seed=5, first=0, every=97, drawn=60, most_rows=9000
    )
    assert [rank["value"][1:] for rank in outcome["ranks"]] == [[]] * 3


@pytest.mark.parametrize("world", [2, 3])
def test_special_values(rank_host: Any, backend: str, world: int) -> None:
    outcome = rank_host.run(backend, world, "special_values")
    assert [rank["value"] for rank in outcome["ranks"]] == [[]] * world


def test_every_half(rank_host: Any, backend: str) -> None:
    outcome = rank_host.run(backend, 2, "every_half")
    assert [rank["value"] for rank in outcome["ranks"]] == [[], []]


def test_the_data_tell_orders_apart() -> None:
    """With data on which any order gave the same sum, the tests above could not fail."""
    for dtype in comm_cases.DTYPES[:4]:
        case = comm_cases.Case("all_reduce", (0, 1, 2), dtype, ((50,) * 3,) * 3, 8, 1)
        xs = [comm_cases._data(case, member, 0, 50) for member in range(3)]
        assert not torch.equal(comm_cases.plain_sum(xs), comm_cases.plain_sum(xs[::-1])), dtype
        assert not torch.equal(comm_cases.plain_sum(xs), comm_cases.plain_sum([xs[0], xs[2], xs[1]])), dtype


def test_a_wrong_backend_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three backends that are almost right: added in reverse, rounded at each step, members in another order."""
    case = comm_cases.Case("all_reduce", (0, 1, 2), torch.bfloat16, ((50,) * 3,) * 3, 8, 1)
    swapped = comm_cases.Case("all_gather", (0, 1, 2), torch.float32, ((5, 5, 5),) * 3, 8, 1)
    sums = {
        "reverse": lambda xs: comm_cases.plain_sum(list(xs)[::-1]),
        "rounded each time": lambda xs: xs[0] + xs[1] + xs[2],
    }
    for wrong in sums.values():
        monkeypatch.setattr("weft.compute.comm.lockstep.ordered_sum", wrong)
        lockstep = LockstepWorld(3, [(0, 1, 2)])
        assert all(lockstep.run([lambda comm: comm_cases.check(comm, case)] * 3))
    lockstep = LockstepWorld(3, [(0, 1, 2)])
    for comm in lockstep.comms:
        right = comm.all_gather
        monkeypatch.setattr(comm, "all_gather", lambda x, outs, group, right=right: right(x, outs[::-1], group))
    assert all(lockstep.run([lambda comm: comm_cases.check(comm, swapped)] * 3))
