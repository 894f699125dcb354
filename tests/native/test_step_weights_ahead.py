"""What a thread fetches while it waits for others: the first lines of its own part of the next product, and no more."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import compiled

from weft.native import build
from weft.native.records import EPILOGUE, WEIGHT, Epilogue, InstructionRecord, Op, StepRecord, WeightKind, WeightRecord

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

CODES, NUMBERS = 1 << 30, 1 << 40
"""Addresses that nobody reads."""
LINE, MOST_BYTES, AT_ONCE, ROOM = 64, 32 << 10, 4, 1 << 12
COLUMN_BYTES = {WeightKind.F32: 4.0, WeightKind.F64: 8.0, WeightKind.BF16: 2.0, WeightKind.BF12: 1.5}
COLUMN_BYTES |= {WeightKind.INT8: 1.0, WeightKind.INT8G: 1.0, WeightKind.INT4: 0.5}
"""For each of a depth that is a multiple of 32."""
GROUPED = (WeightKind.INT8G, WeightKind.INT4)
ROWS = 3
"""The register of rows that instructions name here."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    opened = compiled(Path(__file__).with_name("weights_probe.cpp"), tmp_path_factory.mktemp("weights"))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    opened.probe_linears_ahead.restype, opened.probe_linears_ahead.argtypes = None, [pointer, number, pointer]
    opened.probe_weight_lines.restype = None
    opened.probe_weight_lines.argtypes = [*[pointer] * 3, number, pointer, number, number, *[pointer] * 3]
    return opened


def linear(weight: WeightRecord, rows: int = ROWS) -> InstructionRecord:
    found = InstructionRecord(op=Op.LINEAR, rows=rows)
    found.p[WEIGHT] = ctypes.addressof(weight)
    found.n[EPILOGUE] = Epilogue.SILU_MUL_OF if weight.interleaved else Epilogue.STORE
    return found


def weight_of(kind: WeightKind, columns: int, depth: int, place: int = 0, interleaved: bool = False) -> WeightRecord:
    found = WeightRecord(kind=kind, columns=columns, depth=depth, interleaved=interleaved)
    found.data, found.scale = CODES + place, NUMBERS + place
    return found


def taken(
    library: ctypes.CDLL, code: list[InstructionRecord], order: list[tuple[int, int]], rows: int, place: tuple[int, int]
) -> tuple[list[int], list[int]]:
    """Lines of codes and of numbers, of instructions and how often something is taken of each; -1: all that is left."""
    numbers, times = ((ctypes.c_int32 * len(order))(*column) for column in zip(*order, strict=True))
    step, lines, counts = StepRecord(), [(ctypes.c_uint64 * ROOM)() for _ in range(2)], (ctypes.c_int64 * 2)()
    step.rows[0], step.rows[ROWS] = 1024, rows
    given = (InstructionRecord * len(code))(*code)
    library.probe_weight_lines(given, numbers, times, len(order), ctypes.byref(step), *place, *lines, counts)
    codes, of_groups = (list(line[:count]) for line, count in zip(lines, counts, strict=True))
    return codes, of_groups


def lines(base: int, count: int) -> list[int]:
    return [base + LINE * line for line in range(count)]


@settings(max_examples=80)
@given(
    kind=st.sampled_from(sorted(COLUMN_BYTES)),
    pairs=st.integers(1, 60),
    depth=st.sampled_from([64, 576, 1536]),
    rows=st.integers(1, 12),
    threads=st.integers(1, 4),
    interleaved=st.booleans(),
)
def test_the_front_of_each_threads_own_part(
    library: ctypes.CDLL, kind: WeightKind, pairs: int, depth: int, rows: int, threads: int, interleaved: bool
) -> None:
    rows = min(rows, library.probe_tile_rows())
    weight = weight_of(kind, 32 * pairs, depth, interleaved=interleaved)
    unit, of_pair, of_numbers = 2 if interleaved else 1, int(32 * depth * COLUMN_BYTES[kind]), depth // 32 * 64
    units = -(-pairs // unit)
    for thread in range(threads):
        first, last = (min(pairs, units * place // threads * unit) for place in (thread, thread + 1))
        count = min(MOST_BYTES, (last - first) * of_pair) // LINE
        codes, numbers = taken(library, [linear(weight)], [(0, -1)], rows, (thread, threads))
        assert codes == lines(CODES + first * of_pair, count)
        part = count * LINE * of_numbers // of_pair // LINE if kind in GROUPED else 0
        assert numbers == lines(NUMBERS + first * of_numbers, part)


def test_what_was_planned_goes_on_and_another_begins_anew(library: ctypes.CDLL) -> None:
    weights = [weight_of(WeightKind.INT8, 64, 64, place << 20) for place in range(2)]
    all_of = [lines(CODES + (place << 20), 64 * 64 // LINE) for place in range(2)]
    order = [(0, 2), (0, 1), (1, 1), (0, -1)]
    expected = [*all_of[0][: 3 * AT_ONCE], *all_of[1][:AT_ONCE], *all_of[0]]
    assert taken(library, [*map(linear, weights)], order, 1, (0, 1)) == (expected, [])


def test_nothing_for_no_rows_or_for_rows_that_bound_a_step(library: ctypes.CDLL) -> None:
    weight = weight_of(WeightKind.INT4, 640, 64)
    code = [linear(weight), linear(weight, rows=0)]
    for rows in (0, library.probe_tile_rows() + 1, 1024):
        assert taken(library, code, [(0, -1)], rows, (0, 2)) == ([], [])
    few, _ = taken(library, code, [(0, 1), (1, -1)], library.probe_tile_rows(), (0, 2))
    assert len(few) == AT_ONCE, "what was left of another one is not fetched"


def test_which_weights_are_read_next(library: ctypes.CDLL) -> None:
    ops = [Op.NORM, Op.LINEAR, Op.QKV, Op.ATTENTION, Op.LINEAR, Op.ALL_REDUCE, Op.NORM, Op.LINEAR]
    ops += [Op.GROUPED, Op.LINEAR, Op.ATTENTION, Op.PER_HEAD, Op.LINEAR]
    code = (InstructionRecord * len(ops))(*(InstructionRecord(op=op) for op in ops))
    found = (ctypes.c_int32 * len(ops))()
    library.probe_linears_ahead(code, len(ops), found)
    none = len(ops)
    assert list(found) == [1, none, none, 4, 7, 7, 7, none, 9, none, none, 12, none]
