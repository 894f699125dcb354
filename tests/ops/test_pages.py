"""Memory that other ranks find too: what is copied there is the same, and is copied once."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tests.support.native_libraries import need
from tests.support.shelf import Shelf
from weft.native.records import WeightRecord
from weft.native.step_library import Pool, open_library
from weft.ops.native.arena import Arena
from weft.ops.native.packed import Packing
from weft.ops.native.pages import ArenaPages, OwnPages
from weft.quant.registry import format_of


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(8 << 20)


def test_records_and_vectors_are_copied_there(shelf: Shelf) -> None:
    pages, plain = ArenaPages(shelf), WeightRecord(3, 4, 5)
    record = pages.record(plain)
    assert bytes(record) == bytes(plain) and shelf.holds(ctypes.addressof(record))
    numbers = torch.arange(12.0).view(3, 4)
    copy = pages.vector(numbers)
    assert copy.equal(numbers) and shelf.holds(copy.data_ptr())
    assert pages.vector(numbers).data_ptr() == copy.data_ptr() and pages.vector(copy) is copy
    assert pages.vector(numbers[:1]).data_ptr() != copy.data_ptr()
    assert len(pages.take(0)) == 0 and not pages.take(40).any()


def test_own_memory_is_where_all_lies_already() -> None:
    pages, plain, numbers = OwnPages(), WeightRecord(3, 4, 5), torch.ones(3)
    assert pages.record(plain) is plain and pages.vector(numbers) is numbers


def test_a_weight_lies_there_with_all_that_it_points_to(shelf: Shelf) -> None:
    need("step")
    library = open_library()
    assert library is not None
    packing, matrix = Packing(Pool(library, 1), pages=ArenaPages(shelf)), torch.randn(64, 96).bfloat16()
    for form in (None, *(format_of(name).native for name in ("int4", "int8", "lossless_bf16"))):
        made = packing.pack(matrix, form, arena=Arena(pages=packing.pages))
        wanted = Packing(packing.pool).pack(matrix, form).unpacked()
        assert made.unpacked().equal(wanted)
        parts = (made.data, made.scale, made.offset, made.table, made.lut)
        assert shelf.holds(made.address) and all(shelf.holds(part.data_ptr()) for part in parts if len(part))


def test_memory_of_an_attempt_that_came_to_nothing_is_free_again(shelf: Shelf) -> None:
    arena = Arena(pages=ArenaPages(shelf))
    arena.take(100)
    before = shelf.taken
    with arena.attempt() as unused:
        part = arena.take(1000)
        part += 7
        unused.append(part)
    assert shelf.taken == before and not arena.take(1000).any()
    after = shelf.taken
    with arena.attempt():
        arena.take(1000)
    assert shelf.taken > after
