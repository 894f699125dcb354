"""C++ has the operations, indices, kernels and records that their declaration in Python says."""

from __future__ import annotations

from weft.native import generate, operations
from weft.native.operations import EXCHANGES, FLOATS, NUMBERS, OPS, POINTERS, Op


def test_the_header_is_what_the_generator_writes() -> None:
    assert generate.HEADER.read_text() == generate.header(), "run `python -m weft.native.generate`"


def test_every_operation_and_every_index_is_declared() -> None:
    assert list(OPS) == list(Op) and {op for op, spec in OPS.items() if not spec.kernel} == set(EXCHANGES)
    constants = {name for name, value in vars(operations).items() if name.isupper() and type(value) is int}
    assert constants == {*NUMBERS, *POINTERS, *FLOATS}
