"""The records and enumerations that Python and C++ share. `weft.compute.ops.generate` writes them in C++."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

_POINTER = ctypes.c_void_p


class Dtype(IntEnum):
    """Of an operand."""

    F32 = 0
    BF16 = 1
    F64 = 2
    I64 = 3


class WeightKind(IntEnum):
    """How the numbers of a packed weight are written."""

    F32 = 0
    BF16 = 1
    F64 = 2
    INT8 = 3
    INT4 = 4
    INT8G = 5
    BF16_12BIT = 6


class Epilogue(IntEnum):
    """What a linear does with the fp32 sums (fp64 for F64) of a row."""

    STORE = 0
    SILU_MUL_OF = 1
    ADD_TO = 2


class Chose(IntEnum):
    """Of which rows a decode step chose the token."""

    NONE = 0
    FROM_LOGITS = 1
    LARGEST = 2


@dataclass(frozen=True, slots=True)
class CppEnum:
    """What `runtime/records.h` calls the members: `prefix` and the name. `notes`: what they mean, by name."""

    prefix: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


ENUMS: Mapping[type[IntEnum], CppEnum] = {
    Dtype: CppEnum(),
    WeightKind: CppEnum(
        "W_",
        {
            "INT8": "for each output column: value = q * scale[column]",
            "INT4": "groups of 32 along depth: value = table[code] * scale[group][column] (+ offset[group][column])",
            "INT8G": "groups of 32 along depth: value = q * scale[group][column]",
            "BF16_12BIT": "the numbers of a W_BF16, all of them, in 12 bits each and a few apart; see lossless_bf16.h",
        },
    ),
    Epilogue: CppEnum(
        notes={
            "STORE": "out = sum (+ bias), in out's dtype",
            "SILU_MUL_OF": "weight packed with gate and up interleaved: out = silu(gate) * up, half as many columns",
            "ADD_TO": "out += sum (+ bias)",
        }
    ),
    Chose: CppEnum(
        "CHOSE_",
        {
            "NONE": "of none: they want more, or are not finite",
            "FROM_LOGITS": "of all, from logits",
            "LARGEST": "of all, before logits were brought together: those of the program are an earlier step's",
        },
    ),
}

MAX_ROW_REGISTERS = 64


@dataclass(frozen=True, slots=True)
class Cpp:
    """What `runtime/records.h` calls a record. By field: `types` of pointers that are not `const void*`, and of
    functions, with `(*)` for the name; `names` that differ; `notes`. The comment above the record is its docstring."""

    name: str
    types: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


class WeightRecord(ctypes.Structure):
    """A matrix [columns (out), depth (in)] packed in pairs of 16-column panels; weight.h has the order of elements."""

    cpp = Cpp(
        "Weight",
        notes={
            "kind": "a WeightKind",
            "interleaved": "gate and up alternate by 16 columns (SILU_MUL_OF)",
            "table": "W_INT4: 16 bf16 values, one apart from the next",
            "int8_activations": "whether rows are rounded to int8 before they are multiplied; see q8_activations.h",
            "scale16": "of W_INT4: scale and offset are in one word of 16 bits in `scale`; see weight.h",
            "lut": "of W_INT4 by columns: see dequant_lut_amx.h; null: there are none",
        },
    )
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("depth", ctypes.c_int32),
        ("interleaved", ctypes.c_int32),
        ("data", _POINTER),
        ("scale", _POINTER),
        ("offset", _POINTER),
        ("table", _POINTER),
        ("int8_activations", ctypes.c_int32),
        ("scale16", ctypes.c_int32),
        ("lut", _POINTER),
    )


class OperandRecord(ctypes.Structure):
    """Rows that an instruction reads or writes."""

    cpp = Cpp(
        "Operand",
        types={"base": "void*"},
        notes={
            "base": "first row; null: a step's own pointer (ids, ...), which Step has",
            "stride": "elements from row to row",
            "dtype": "a Dtype",
        },
    )
    _fields_ = (
        ("base", _POINTER),
        ("stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("columns", ctypes.c_int32),
    )


class InstructionRecord(ctypes.Structure):
    """One operation of a program. Enums N, F and P are the indices into n, f and p."""

    cpp = Cpp(
        "Instruction",
        names={"inputs": "in"},
        notes={
            "op": "an Op",
            "rows": "row register: number of rows of out (of in0 where there is no out)",
            "exact": "1: results on the exact model's grid (compute/ops/reference/exact_ops.py), computed in fp64",
            "name": "for profiles: which module's",
            "cache_stride": "elements from block to block, from head to head, of K_CACHE and of V_CACHE alike",
        },
    )
    _fields_ = (
        ("op", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("exact", ctypes.c_int32),
        ("name", ctypes.c_int32),
        ("inputs", OperandRecord * 2),
        ("out", OperandRecord),
        ("n", ctypes.c_int32 * 12),
        ("f", ctypes.c_double * 2),
        ("p", _POINTER * 12),
        ("cache_stride", ctypes.c_int64 * 2),
    )


class StepRecord(ctypes.Structure):
    """The numbers of one step. All pointers are host memory that lives until the step is done."""

    cpp = Cpp(
        "Step",
        types={
            "ids": "const int64_t*",
            **dict.fromkeys(("positions", "slots", "run_of_row", "row_ends", "block_tables"), "const int32_t*"),
            "sampled_rows": "const int64_t*",
            **dict.fromkeys(("sampled_positions", "sampled_row_ends", "group_positions"), "const int32_t*"),
            "starts": "const int64_t*",
        },
        notes={
            "rows": "by row register",
            "ids": "EMBED's where its operand has no base",
            "positions": "of the attention block's rows, like the next two",
            "row_ends": "cumulative rows of the runs that attention takes: those of the block, or as group_positions",
            "block_tables": "[runs, table_width]",
            "sampled_rows": "ascending numbers among the rows that the rank holds of the residual stream",
            "sampled_positions": "of the sampled rows that attention takes, like the next",
            "group_positions": "of PARTIAL: of all rows of the attention-dp group, one block after the other",
            "starts": "first row of every rank of the stage (and the end): all rows, sampled rows",
        },
    )
    _fields_ = (
        ("rows", ctypes.c_int64 * MAX_ROW_REGISTERS),
        ("ids", _POINTER),
        ("positions", _POINTER),
        ("slots", _POINTER),
        ("run_of_row", _POINTER),
        ("row_ends", _POINTER),
        ("block_tables", _POINTER),
        ("runs", ctypes.c_int32),
        ("table_width", ctypes.c_int32),
        ("sampled_rows", _POINTER),
        ("sampled_positions", _POINTER),
        ("sampled_row_ends", _POINTER),
        ("group_positions", _POINTER),
        ("starts", _POINTER * 2),
    )


class AreaRecord(ctypes.Structure):
    """Runs [lo, hi) x columns [left, right) of a buffer; `whole`: all its columns."""

    cpp = Cpp("Area")
    _fields_ = tuple((name, ctypes.c_int32) for name in ("present", "lo", "hi", "left", "right", "whole"))


class ExchangeRecord(ctypes.Structure):
    """What an instruction between ranks moves, and a COPY of a part (members 1, sends[0]): areas by member."""

    cpp = Cpp(
        "Exchange",
        types={"sent": "void*", "taken": "void*"},
        notes={
            "table": "0 all rows, 1 sampled rows (index into Step::starts)",
            "in_base": "the run that the input begins with; `in_end`: one past its last",
            "out_base": "the run that the output begins with",
            "keep_from": "of an all_to_all's own piece, like the next",
            "sends": "[members]",
            "takes": "[members]",
            "sent": "room for areas that are not whole, one after the other; like the next",
        },
    )
    _fields_ = (
        ("group", ctypes.c_int32),
        ("members", ctypes.c_int32),
        ("position", ctypes.c_int32),
        ("table", ctypes.c_int32),
        ("in_base", ctypes.c_int32),
        ("out_base", ctypes.c_int32),
        ("keeps", ctypes.c_int32),
        ("in_end", ctypes.c_int32),
        ("keep_from", AreaRecord),
        ("keep_to", AreaRecord),
        ("sends", ctypes.POINTER(AreaRecord)),
        ("takes", ctypes.POINTER(AreaRecord)),
        ("sent", _POINTER),
        ("taken", _POINTER),
    )
