"""Instructions that are open to other ranks: these do what the rank has not begun, each unit once, and none is at work
when the next instruction begins."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from tests.native.pools import MANY, SPIN, new, probe
from weft.native import build

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return probe(tmp_path_factory.mktemp("offers"))


@pytest.fixture(params=[(1, 1), (1, 3), (2, 1), (3, 2), (MANY, 1)], ids=str)
def team(library: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[tuple[int, int, int]]:
    """(handle, threads, other ranks)."""
    threads, ranks = request.param
    handle = new(library, threads, SPIN)
    yield handle, threads, ranks
    library.weft_pool_free(handle)


def helped(
    library: ctypes.CDLL,
    team: tuple[int, int, int],
    sizes: list[int],
    rounds: int,
    first_waits: bool = False,
    offers: bool = True,
) -> tuple[int, list[int]]:
    """(units that other ranks did, how often each was done)."""
    done, given = (ctypes.c_int64 * sum(sizes))(), (ctypes.c_int64 * len(sizes))(*sizes)
    found = library.probe_offers(team[0], given, done, rounds, int(first_waits), team[2], int(offers))
    return int(found), list(done)


@pytest.mark.parametrize("size", [0, 1, 2, 9, 100])
def test_every_unit_is_done_once(library: ctypes.CDLL, team: tuple[int, int, int], size: int) -> None:
    threads = team[1]
    for sizes in ([size] * threads, [size + 3 * i for i in range(threads)], [0] * (threads - 1) + [size]):
        found, done = helped(library, team, sizes, 60)
        assert done == [60] * sum(sizes)
        assert found >= 0


def test_others_do_what_the_rank_has_not_begun(library: ctypes.CDLL, team: tuple[int, int, int]) -> None:
    """The first thread keeps the half that it took first until everything else is done."""
    threads = team[1]
    found, done = helped(library, team, [16] + [0] * (threads - 1), 5, first_waits=True)
    assert done == [5] * 16
    assert found == 5 * 8 if threads == 1 else 0 <= found <= 5 * 8


def test_nothing_is_open_where_nothing_is_offered(library: ctypes.CDLL, team: tuple[int, int, int]) -> None:
    sizes = [16] * team[1]
    assert helped(library, team, sizes, 5, offers=False)[1] == [5] * sum(sizes)
    assert helped(library, team, sizes, 5, offers=True)[0] >= 0  # as before, after a time without


def test_others_take_nothing_where_nobody_steals(library: ctypes.CDLL, team: tuple[int, int, int]) -> None:
    library.weft_pool_stealing(team[0], 0)
    assert helped(library, team, [9] * team[1], 20) == (0, [20] * 9 * team[1])
