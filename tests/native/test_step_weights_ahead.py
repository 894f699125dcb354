"""What a thread fetches of the next product's weights when it is done with one: what a single row will begin with."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from pools import compiled

from weft.native import build
from weft.native.records import WEIGHT, InstructionRecord, Op, StepRecord, WeightKind, WeightRecord

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

WEIGHTS, PAIR, DEPTH, MOST_BYTES = 1 << 30, 32, 576, 32 << 10
"""Address of weights that nobody reads; columns of a pair; the depth; bytes that are fetched at most."""
PAIR_BYTES = PAIR * DEPTH // 2


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    opened = compiled(Path(__file__).with_name("weights_probe.cpp"), tmp_path_factory.mktemp("weights"))
    number, pointer = ctypes.c_int, ctypes.c_void_p
    opened.probe_first_weights.restype = ctypes.c_int64
    opened.probe_first_weights.argtypes = [pointer, number, number, pointer, number, number, pointer]
    return opened


def fetched(
    library: ctypes.CDLL,
    between: list[Op],
    rows: int,
    thread: int = 0,
    threads: int = 1,
    pairs: int = 48,
    kind: WeightKind = WeightKind.INT4,
) -> tuple[int, int]:
    """Offset and bytes of what is fetched behind the first of two products, with `between` these."""
    weight = WeightRecord(kind=kind, columns=pairs * PAIR, depth=DEPTH, data=WEIGHTS)
    code = [InstructionRecord(op=op, rows=0) for op in (Op.LINEAR, *between, Op.LINEAR)]
    for one in (code[0], code[-1]):
        one.p[WEIGHT] = ctypes.addressof(weight)
    step, begin = StepRecord(), ctypes.c_void_p()
    step.rows[0] = rows
    records = (InstructionRecord * len(code))(*code)
    size = library.probe_first_weights(records, len(code), 0, ctypes.byref(step), thread, threads, ctypes.byref(begin))
    return (begin.value or WEIGHTS) - WEIGHTS, size


@pytest.mark.parametrize(("thread", "threads"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_a_thread_fetches_what_it_begins_with(library: ctypes.CDLL, thread: int, threads: int) -> None:
    for between in ([], [Op.NORM], [Op.QKV, Op.ATTENTION]):
        assert fetched(library, between, 1, thread, threads) == (48 * thread // threads * PAIR_BYTES, MOST_BYTES)


def test_no_more_is_fetched_than_a_thread_has(library: ctypes.CDLL) -> None:
    assert fetched(library, [], 1, 0, 2, pairs=1) == (0, 0)
    assert fetched(library, [], 1, 1, 2, pairs=1) == (0, PAIR_BYTES)


def test_nothing_is_fetched_for_several_rows_or_none(library: ctypes.CDLL) -> None:
    assert [fetched(library, [Op.NORM], rows)[1] for rows in (0, 1, 2, 64)] == [0, MOST_BYTES, 0, 0]


@pytest.mark.parametrize("kind", [kind for kind in WeightKind if kind != WeightKind.INT4])
def test_nothing_is_fetched_where_the_memory_never_rests(library: ctypes.CDLL, kind: WeightKind) -> None:
    assert fetched(library, [], 1, kind=kind) == (0, 0)


def test_nothing_is_fetched_before_ranks_meet(library: ctypes.CDLL) -> None:
    """They would hear later that this one has come."""
    assert fetched(library, [Op.ALL_REDUCE, Op.NORM], 1) == (0, 0)
