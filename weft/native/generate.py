"""Writes `runtime/records.h` from `operations.py` and `records.py`: `python -m weft.native.generate`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

from weft.native import operations
from weft.native.libraries import SOURCES
from weft.native.operations import FLOATS, NUMBERS, OPS, POINTERS
from weft.native.records import (
    MAX_ROW_REGISTERS,
    AreaRecord,
    Cpp,
    ExchangeRecord,
    InstructionRecord,
    OperandRecord,
    StepRecord,
    WeightRecord,
)

HEADER = SOURCES / "runtime" / "records.h"
RECORDS = (OperandRecord, InstructionRecord, StepRecord, WeightRecord, AreaRecord, ExchangeRecord)
"""In an order in which each one's parts come before it."""
_TYPES: dict[Any, str] = {
    ctypes.c_int32: "int32_t",
    ctypes.c_int64: "int64_t",
    ctypes.c_double: "double",
    ctypes.c_void_p: "const void*",
    ctypes.POINTER(AreaRecord): "const Area*",
    **{record: record.cpp.name for record in RECORDS},
}
_TOP = f"""// The operations, their operands' indices and kernels, and the records that Python fills. Do not edit: \
written by
// `python -m weft.native.generate` from weft/native/operations.py and weft/native/records.py.
#pragma once

#include <stdint.h>

// clang-format off
namespace weft {{

constexpr int MAX_ROW_REGISTERS = {MAX_ROW_REGISTERS};
"""


def header() -> str:
    """The text of `runtime/records.h`."""
    kernels = [f"    X({op.name}, {spec.kernel})" for op, spec in OPS.items() if spec.kernel]
    units = " || ".join(f"op == {op.name}" for op, spec in OPS.items() if spec.units)
    indices = (("N", NUMBERS), ("P", POINTERS), ("F", FLOATS))
    parts = [
        _TOP,
        _block("enum Op : int32_t", (f"{op.name} = {op.value},  // {spec.says}" for op, spec in OPS.items())),
        "// Indices into Instruction::n, ::p and ::f. Operations use the same ones for different things.",
        *(
            _block(f"enum {enum} : int32_t", (f"{name} = {getattr(operations, name)}," for name in names))
            for enum, names in indices
        ),
        *map(_struct, RECORDS),
        "// X(operation, kernel) for each operation that a kernel computes.",
        "#define FOR_EACH_KERNEL(X) \\\n" + " \\\n".join(kernels) + "\n",
        "// Whether the kernel splits its work into units, which another rank can steal.",
        f"inline bool has_units(int op) {{\n    return {units};\n}}\n",
        "}  // namespace weft\n// clang-format on\n",
    ]
    return "\n".join(parts)


def _struct(record: Any) -> str:
    lines = (_field(record.cpp, name, kind) for name, kind in record._fields_)
    return f"// {record.__doc__}\n" + _block(f"struct {record.cpp.name}", lines)


def _field(cpp: Cpp, name: str, kind: Any) -> str:
    length, note = "", cpp.notes.get(name)
    if issubclass(kind, ctypes.Array):
        kind, length = kind._type_, f"[{kind._length_}]"
    line = f"{cpp.types.get(name, _TYPES[kind])} {cpp.names.get(name, name)}{length};"
    return f"{line}  // {note}" if note else line


def _block(head: str, lines: Iterable[str]) -> str:
    return f"{head} {{\n" + "".join(f"    {line}\n" for line in lines) + "};\n"


if __name__ == "__main__":
    HEADER.write_text(header())
