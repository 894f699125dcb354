"""C++ has the operations, indices and kernels that their declaration in Python says."""

from __future__ import annotations

import re

from weft.native import operations
from weft.native.libraries import SOURCES
from weft.native.operations import EXCHANGES, FLOATS, NUMBERS, OPS, POINTERS, Op

INSTRUCTION = (SOURCES / "runtime" / "instruction.h").read_text()
KERNELS = (SOURCES / "runtime" / "kernel_table.h").read_text()


def enum_of(name: str) -> dict[str, int]:
    """Members of a C++ enum; one without a number follows the one before."""
    found = re.search(rf"enum {name} : int32_t {{(.*?)}};", INSTRUCTION, re.S)
    assert found
    members: dict[str, int] = {}
    for member, number in re.findall(r"(\w+)(?: = (\d+))?,?", re.sub("//.*", "", found[1])):
        members[member] = int(number) if number else max(members.values()) + 1
    return members


def test_numbers_and_indices_are_the_declared_ones() -> None:
    assert enum_of("Op") == {op.name: op.value for op in Op}
    exchange = {"EXCHANGE"}  # an enum of its own in C++
    for name, indices in (("N", NUMBERS), ("P", POINTERS), ("F", FLOATS)):
        assert enum_of(name) == {index: getattr(operations, index) for index in indices if index not in exchange}
    assert enum_of("ExchangeOf") == {"EXCHANGE": operations.EXCHANGE}


def test_kernels_are_the_declared_ones() -> None:
    declared = {op.name: spec.kernel for op, spec in OPS.items() if spec.kernel}
    assert dict(re.findall(r"case (\w+): return (\w+);", KERNELS)) == declared
    (line,) = re.findall("inline bool has_units.*", KERNELS)
    assert set(re.findall(r"op == (\w+)", line)) == {op.name for op, spec in OPS.items() if spec.units}


def test_every_operation_and_every_index_is_declared() -> None:
    assert list(OPS) == list(Op) and {op for op, spec in OPS.items() if not spec.kernel} == set(EXCHANGES)
    constants = {name for name, value in vars(operations).items() if name.isupper() and type(value) is int}
    assert constants == {*NUMBERS, *POINTERS, *FLOATS}
