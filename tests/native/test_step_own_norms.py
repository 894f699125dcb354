"""Norms of few rows that every thread computes for itself: which they are, and that no bit depends on it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import step_cases
import torch
from pools import compiled
from step_cases import ISAS, THREADS, VARIANTS
from torch import Tensor

from weft.native import build
from weft.native.records import EPILOGUE as EPILOGUE_OF
from weft.native.records import EPS, NORM_WEIGHT, WEIGHT, Epilogue, InstructionRecord, Op, StepRecord, WeightKind
from weft.native.step_library import Program
from weft.ops.packed import PackedWeight, Packing, operand

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

WIDTH, COLUMNS, ROOM = 96, 160, 5


class Case:
    """A norm of rows [5, 96] and a product; a norm of what that gave, and another product."""

    def __init__(self, kind: WeightKind, packing: Packing) -> None:
        chance = torch.Generator().manual_seed(3)
        self.x = torch.randn(ROOM, WIDTH, generator=chance)
        self.normed, self.wide = torch.zeros(ROOM, WIDTH).bfloat16(), torch.zeros(ROOM, COLUMNS)
        self.again, self.out = torch.zeros(ROOM, COLUMNS).bfloat16(), torch.zeros(ROOM, WIDTH)
        self.scale = torch.rand(COLUMNS, generator=chance) + 0.5
        self.weights = [
            packing.pack(torch.randn(shape, generator=chance).bfloat16(), kind)
            for shape in ((COLUMNS, WIDTH), (WIDTH, COLUMNS))
        ]
        self.code = [
            self.norm(self.x, self.normed),
            self.product(self.normed, self.weights[0], self.wide),
            self.norm(self.wide, self.again),
            self.product(self.again, self.weights[1], self.out),
        ]
        self.step = StepRecord()

    def norm(self, x: Tensor, out: Tensor) -> InstructionRecord:
        one = InstructionRecord(op=Op.NORM, out=operand(out))
        one.inputs[0], one.f[EPS], one.p[NORM_WEIGHT] = operand(x), 1e-5, self.scale.data_ptr()
        return one

    def product(self, x: Tensor, weight: PackedWeight, out: Tensor) -> InstructionRecord:
        one = InstructionRecord(op=Op.LINEAR, out=operand(out))
        one.inputs[0], one.n[EPILOGUE_OF], one.p[WEIGHT] = operand(x), Epilogue.STORE, weight.address
        return one

    def results(self) -> list[Tensor]:
        return [each.clone() for each in (self.normed, self.wide, self.again, self.out)]

    def clear(self) -> None:
        for each in (self.normed, self.wide, self.again, self.out):
            each.zero_()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [WeightKind.BF16, WeightKind.INT8, WeightKind.INT4], ids=lambda kind: kind.name)
@pytest.mark.parametrize("rounds_rows", [False, True])
def test_a_program_gives_the_bits_of_its_instructions(variant: str, kind: WeightKind, rounds_rows: bool) -> None:
    """Run one by one they are all done by the whole team; also what all threads find behind the norms is the same."""
    case = Case(kind, Packing(step_cases.pool(variant, 1), rounds_rows))
    for threads in THREADS:
        pool = step_cases.pool(variant, threads)
        program = Program(pool, case.code, None, [case])
        for rows in (0, 1, 2, 3, 5):
            case.step.rows[0] = rows
            for seed in range(20):
                case.x.copy_(torch.randn(case.x.shape, generator=torch.Generator().manual_seed(seed)))
                case.clear()
                for one in case.code:
                    pool.run_one(one, case.step)
                wanted = case.results()
                assert rows == 0 or wanted[-1][rows - 1].any()
                case.clear()
                assert program.run(case.step) == 0
                assert all(map(torch.equal, case.results(), wanted)), (threads, rows, seed)
        program.close()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    opened, number, pointer = (
        compiled(Path(__file__).with_name("own_norms_probe.cpp"), tmp_path_factory.mktemp("norms")),
        ctypes.c_int,
        ctypes.c_void_p,
    )
    opened.probe_own_norm.argtypes = [pointer, number, number, pointer, number]
    return opened


def own(library: ctypes.CDLL, case: Case, rows: int = 1, end: int | None = None) -> list[int]:
    """Which of the case's instructions are such norms."""
    case.step.rows[0] = rows
    count, code = len(case.code), (InstructionRecord * len(case.code))(*case.code)
    last = count if end is None else end
    step = ctypes.byref(case.step)
    return [number for number in range(count) if library.probe_own_norm(code, count, number, step, last)]


@pytest.fixture
def case() -> Case:
    return Case(WeightKind.BF16, step_cases.packing(ISAS[0]))


def test_few_rows_are_normed_by_each_thread(library: ctypes.CDLL, case: Case) -> None:
    assert [own(library, case, rows) for rows in (1, 2, 3, 64)] == [[0, 2], [0, 2], [], []]


def test_a_norm_whose_product_is_left_out_is_done_by_all(library: ctypes.CDLL, case: Case) -> None:
    assert [own(library, case, end=end) for end in (4, 3, 2, 1, 0)] == [[0, 2], [0], [0], [], []]


def test_a_norm_that_adds_to_its_rows_is_done_once(library: ctypes.CDLL, case: Case) -> None:
    case.code[0].inputs[1] = operand(torch.zeros(ROOM, WIDTH))
    assert own(library, case) == [2]


def test_a_norm_in_place_is_done_once(library: ctypes.CDLL, case: Case) -> None:
    case.code[2].out = case.code[2].inputs[0]
    case.code[3].inputs[0] = case.code[2].inputs[0]
    assert own(library, case) == [0]


def test_a_norm_that_another_operation_reads_is_done_by_all(library: ctypes.CDLL, case: Case) -> None:
    case.code[1], case.code[3].rows = case.norm(case.x, case.normed), 1
    assert own(library, case) == []
    case.code[1] = case.product(case.again, case.weights[1], case.out)
    assert own(library, case) == []


@pytest.mark.parametrize("first", [0, WIDTH, 2 * WIDTH - 1, 2 * WIDTH])
def test_nobody_writes_what_others_still_norm(library: ctypes.CDLL, case: Case, first: int) -> None:
    """A product's results may lie where the norm's rows lay, which nobody needs later: but some thread may now."""
    case.code[1].out = operand(case.x.view(-1)[first:].as_strided((2, 8), (8, 1)))
    assert own(library, case) == ([2] if first < 2 * WIDTH else [0, 2])


def test_a_product_over_its_own_rows_is_none_of_them(library: ctypes.CDLL, case: Case) -> None:
    case.code[1].out = case.code[0].out
    assert own(library, case) == [2]


@pytest.mark.parametrize("field", ["base", "stride", "dtype"])
def test_a_product_of_other_rows_is_none_of_them(library: ctypes.CDLL, case: Case, field: str) -> None:
    """It reads the norm's memory from another place, with other strides, or as other numbers."""
    read = case.code[1].inputs[0]
    setattr(read, field, getattr(read, field) + {"base": 2, "stride": -8, "dtype": -1}[field])
    assert own(library, case) == [2]
