"""Writes `runtime/records.h` and `runtime/kernel_table.h` from the declarations: `python -m
weft.compute.ops.generate`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

from weft.compute.native.libraries import SOURCES
from weft.compute.native.records import ENUMS, MAX_ROW_REGISTERS, AreaRecord, Cpp
from weft.compute.native.runtime_records import RECORDS
from weft.compute.ops.operations.declare import F, N, OpCode, P
from weft.compute.ops.operations.table import MODULES, OPS

_TYPES: dict[Any, str] = {
    ctypes.c_int32: "int32_t",
    ctypes.c_int64: "int64_t",
    ctypes.c_uint64: "uint64_t",
    ctypes.c_double: "double",
    ctypes.c_void_p: "const void*",
    ctypes.POINTER(AreaRecord): "const Area*",
    **{record: record.cpp.name for record in RECORDS},
}
_TOP = """// {says} Do not edit: written by
// `python -m weft.compute.ops.generate` from weft/compute/ops/operations/ and weft/compute/native/records.py.
#pragma once
"""


def headers(operations: Mapping[int, OpCode] = OPS, modules: Iterable[object] = MODULES) -> dict[Path, str]:
    """The text of each header, by its file: of `operations`, and of the indices that `modules` have."""
    runtime = SOURCES / "runtime"
    return {
        runtime / "records.h": _records(operations, [vars(module) for module in modules]),
        runtime / "kernel_table.h": _kernel_table(operations),
    }


def _records(operations: Mapping[int, OpCode], names: list[dict[str, Any]]) -> str:
    parts = [
        _TOP.format(says="The operations, their operands' indices, and the records that Python fills."),
        "#include <stdint.h>\n\n// clang-format off\nnamespace weft {\n",
        f"constexpr int MAX_ROW_REGISTERS = {MAX_ROW_REGISTERS};\n",
        _block("enum Op : int32_t", (f"{op.name} = {int(op)},  // {op.says}" for op in operations.values())),
        "// Indices into Instruction::n, ::p and ::f. Operations use the same ones for different things.",
        *(_block(f"enum {kind.__name__} : int32_t", _indices(kind, names)) for kind in (N, P, F)),
        *map(_enum, ENUMS),
        "// Of other headers.\nstruct SamplingTable;\nstruct Status;\n",
        *map(_struct, RECORDS),
        _record_bytes(),
        "}  // namespace weft\n// clang-format on\n",
    ]
    return "\n".join(parts)


def _indices(kind: type[int], names: list[dict[str, Any]]) -> Iterable[str]:
    found = {name: value for each in names for name, value in each.items() if type(value) is kind}
    return (f"{name} = {int(value)}," for name, value in found.items())


def _kernel_table(operations: Mapping[int, OpCode]) -> str:
    kernels = {op.name: op.kernel.split(":") for op in operations.values() if op.kernel}
    includes = sorted({"runtime/instruction.h", *(header for header, _ in kernels.values())})
    cases = (f"case {name}: return {kernel};" for name, (_, kernel) in kernels.items())
    return "\n".join(
        [
            _TOP.format(says="Which kernel computes an operation."),
            *(f'#include "{each}"' for each in includes),
            "\n// clang-format off\nnamespace weft {\n\n// Null for an exchange between ranks.",
            "inline Kernel kernel_of(int op) {\n    switch (op) {",
            *(f"        {case}" for case in cases),
            "        default: return nullptr;\n    }\n}\n",
            "}  // namespace weft\n// clang-format on\n",
        ]
    )


def _enum(kind: type[IntEnum]) -> str:
    cpp, names = ENUMS[kind], (kind.__name__, kind.__doc__)
    lines = (_noted(f"{cpp.prefix}{each.name} = {each.value},", cpp.notes.get(each.name)) for each in kind)
    return f"// {names[1]}\n" + _block(f"enum {names[0]} : int32_t", lines)


def _record_bytes() -> str:
    says = "// Bytes of each record, in the order above: Python compares them with its own.\n"
    return says + _block("constexpr int RECORD_BYTES[] =", (f"sizeof({record.cpp.name})," for record in RECORDS))


def _struct(record: Any) -> str:
    lines = (_field(record.cpp, name, kind) for name, kind in record._fields_)
    return f"// {record.__doc__}\n" + _block(f"struct {record.cpp.name}", lines)


def _field(cpp: Cpp, name: str, kind: Any) -> str:
    length, note = "", cpp.notes.get(name)
    if issubclass(kind, ctypes.Array):
        kind, length = kind._type_, f"[{kind._length_}]"
    spelled, said = cpp.types.get(name) or _TYPES[kind], cpp.names.get(name, name)
    function = "(*)" in spelled
    line = spelled.replace("(*)", f"(*{said})", 1) if function else f"{spelled} {said}{length}"
    return _noted(f"{line};", note)


def _noted(line: str, note: str | None) -> str:
    return f"{line}  // {note}" if note else line


def _block(head: str, lines: Iterable[str]) -> str:
    return f"{head} {{\n" + "".join(f"    {line}\n" for line in lines) + "};\n"


if __name__ == "__main__":
    for path, text in headers().items():
        path.write_text(text)
