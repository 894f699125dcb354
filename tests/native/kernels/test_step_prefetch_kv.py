"""What products of many streams fetch for the attention behind them: all that it reads, once, and no bit changes."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native import step_cases
from tests.native.pools import compiled
from tests.native.step_cases import VARIANTS, form
from weft.native import build
from weft.native.records import (
    BLOCK_SIZE,
    CACHE_AHEAD,
    EPILOGUE,
    HEAD_DIM,
    K_CACHE,
    KV_HEADS,
    PACKED_CACHE,
    WEIGHT,
    WINDOW,
    Epilogue,
    InstructionRecord,
    Op,
    StepRecord,
    WeightKind,
    WeightRecord,
)
from weft.ops.native.packed import operand

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

CACHE = 1 << 30
"""Address of a cache that nobody reads."""
LINE, DIM, MOST_BYTES, ROOM = 64, 64, 2 << 20, 1 << 17


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    opened = compiled(Path(__file__).with_name("cache_probe.cpp"), tmp_path_factory.mktemp("cache"))
    number, pointer = ctypes.c_int, ctypes.c_void_p
    opened.probe_cache_lines.restype = ctypes.c_int64
    opened.probe_cache_lines.argtypes = [pointer, number, number, pointer, *[number] * 5, pointer, ctypes.c_int64]
    return opened


class Case:
    """Streams at `positions` before an attention of `heads` KV heads."""

    def __init__(self, positions: list[int], block: int = 16, heads: int = 3, window: int = 0, packed: int = 1) -> None:
        self.block, self.positions, self.window = block, positions, window
        self.width = max(positions) // block + 1
        self.tables = np.random.default_rng(0).permutation(len(positions) * self.width).astype(np.int32)
        self.numbers = np.array(positions, np.int32)
        self.bytes = heads * 2 * block * DIM * 2
        self.attention = InstructionRecord(op=Op.ATTENTION, cache_stride=(30 * self.bytes // 2, 2 * block * DIM))
        self.attention.p[K_CACHE] = CACHE
        for index, value in ((KV_HEADS, heads), (HEAD_DIM, DIM), (BLOCK_SIZE, block), (WINDOW, window)):
            self.attention.n[index] = value
        self.attention.n[PACKED_CACHE] = packed
        self.step = StepRecord(runs=len(positions), table_width=self.width, positions=self.numbers.ctypes.data)
        self.step.block_tables, self.step.rows[0] = self.tables.ctypes.data, len(positions)

    def blocks(self) -> list[int]:
        """Addresses, stream by stream."""
        found = []
        for run, position in enumerate(self.positions):
            first = max(0, position - self.window + 1) if self.window else 0
            table = self.tables[run * self.width :]
            found += [int(table[b]) for b in range(first // self.block, position // self.block + 1)]
        return [CACHE + 30 * self.bytes * block for block in found]


def program(case: Case, sizes: list[tuple[int, int]]) -> tuple[ctypes.Array[InstructionRecord], list[WeightRecord]]:
    """Linear operations [columns, depth] before the attention, and one behind it."""
    weights = [WeightRecord(columns=columns, depth=depth) for columns, depth in [*sizes, (64, 64)]]
    linears = [InstructionRecord(op=Op.LINEAR) for _ in weights]
    for linear, weight in zip(linears, weights, strict=True):
        linear.p[WEIGHT] = ctypes.addressof(weight)
    code = [InstructionRecord(op=Op.NORM), *linears[:-1], case.attention, linears[-1]]
    return (InstructionRecord * len(code))(*code), weights


def fetched(library: ctypes.CDLL, case: Case, sizes: list[tuple[int, int]], threads: int, most: int) -> list[list[int]]:
    """Addresses of lines, thread by thread, in the order of the program."""
    (code, _kept), found = program(case, sizes), []
    for thread in range(threads):
        mine: list[int] = []
        for index in range(len(code)):
            room = (ctypes.c_uint64 * ROOM)()
            pairs = sizes[index - 1][0] // 32 if 0 < index <= len(sizes) else 2
            step, given = ctypes.byref(case.step), (thread, threads, 5 * thread, pairs, most)
            count = library.probe_cache_lines(code, len(code), index, step, *given, room, ROOM)
            assert count <= ROOM and (count == 0 or 0 < index <= len(sizes))
            mine += room[:count]
        found.append(mine)
    return found


def lines_of(case: Case, blocks: list[int]) -> list[int]:
    return [block + LINE * line for block in blocks for line in range(case.bytes // LINE)]


@settings(max_examples=60)
@given(
    positions=st.lists(st.integers(0, 300), min_size=1, max_size=40),
    block=st.sampled_from([7, 16, 32]),
    window=st.sampled_from([0, 0, 1, 40]),
    sizes=st.lists(st.tuples(st.sampled_from([64, 576, 3072]), st.sampled_from([64, 576])), min_size=1, max_size=4),
    threads=st.integers(1, 3),
    most=st.sampled_from([1, 50, 288, 1000]),
)
def test_all_that_attention_reads_is_fetched_once(
    library: ctypes.CDLL,
    positions: list[int],
    block: int,
    window: int,
    sizes: list[tuple[int, int]],
    threads: int,
    most: int,
) -> None:
    case = Case(positions, block, 1, window)
    found = fetched(library, case, sizes, threads, most)
    assert [line for mine in found for line in mine] == lines_of(case, case.blocks())


def test_no_more_is_fetched_than_stays_in_the_caches(library: ctypes.CDLL) -> None:
    """Of long contexts each thread fetches the first part of its own."""
    case = Case([2500] * 8)
    whole, found = case.blocks(), fetched(library, case, [(3072, 576), (576, 1536)], 2, 288)
    for thread, mine in enumerate(found):
        first = len(whole) * thread // 2
        assert mine == lines_of(case, whole[first : first + MOST_BYTES // case.bytes])


def test_nothing_is_fetched_for_a_prompt_or_a_cache_that_is_not_packed(library: ctypes.CDLL) -> None:
    prompt = Case([40, 50])
    prompt.step.rows[0] = 3
    for case in (prompt, Case([40, 50], packed=0)):
        assert fetched(library, case, [(3072, 576)], 2, 288) == [[], []]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [WeightKind.BF16, WeightKind.BF12, WeightKind.INT8, WeightKind.INT4, WeightKind.F32])
def test_products_have_the_same_bits(variant: str, kind: WeightKind) -> None:
    torch.manual_seed(1)
    for columns, depth in ((160, 576), (96, 1100), (70, 33)):
        dtype = torch.float32 if kind == WeightKind.F32 else torch.bfloat16
        weight = step_cases.packing(variant).pack(torch.randn(columns, depth).to(dtype), form(kind))
        for streams in (13, 25, 36, 70, 300):
            case = Case([17 * stream % 400 for stream in range(streams)])
            found = [
                _linear(variant, weight.address, case if ahead else None, streams, columns, depth) for ahead in (0, 1)
            ]
            assert torch.equal(*found)


def _linear(variant: str, weight: int, case: Case | None, rows: int, columns: int, depth: int) -> torch.Tensor:
    x = torch.randn(rows, depth, generator=torch.Generator().manual_seed(rows)).to(torch.bfloat16)
    out = torch.zeros(rows, columns)
    one = InstructionRecord(op=Op.LINEAR, out=operand(out))
    one.inputs[0], one.n[EPILOGUE], one.p[WEIGHT] = operand(x), Epilogue.STORE, weight
    step = StepRecord() if case is None else case.step
    step.rows[0] = rows
    if case is not None:
        ahead = np.array([ctypes.addressof(case.attention), 0, 0], np.int64)
        ahead.view(np.float64)[1:] = 0.0, 1.0
        one.p[CACHE_AHEAD] = ahead.ctypes.data
    step_cases.pool(variant, 2).run_one(one, step)
    return out
