"""The records of `step/instruction.h` as ctypes structures. Knows no tensor and no kernel."""

from __future__ import annotations

import ctypes
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
    """A code and one fp32 scale per output column."""
    INT4 = 4
    """One of 16 numbers per code, times a scale (plus an offset) per 32 of depth."""
    INT8G = 5
    """A code and one scale per 32 of depth."""


class Epilogue(IntEnum):
    """What a linear does with its sums."""

    STORE = 0
    SILU_MUL_OF = 1
    ADD_TO = 2


EPILOGUE = 2
"""Index into `InstructionRecord.n`."""
WEIGHT, BIAS = 0, 1
"""Indices into `InstructionRecord.p` of a linear."""
MAX_ROW_REGISTERS = 64


class WeightRecord(ctypes.Structure):
    """`weft::Weight`."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("depth", ctypes.c_int32),
        ("interleaved", ctypes.c_int32),
        ("data", _POINTER),
        ("scale", _POINTER),
        ("offset", _POINTER),
        ("sums", _POINTER),
        ("table", _POINTER),
    )


class OperandRecord(ctypes.Structure):
    """`weft::Operand`."""

    _fields_ = (
        ("base", _POINTER),
        ("stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("columns", ctypes.c_int32),
    )


class InstructionRecord(ctypes.Structure):
    """`weft::Instruction`."""

    _fields_ = (
        ("op", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("exact", ctypes.c_int32),
        ("name", ctypes.c_int32),
        ("inputs", OperandRecord * 2),
        ("out", OperandRecord),
        ("n", ctypes.c_int32 * 8),
        ("f", ctypes.c_double * 2),
        ("p", _POINTER * 6),
        ("cache_stride", ctypes.c_int64 * 2),
    )


class StepRecord(ctypes.Structure):
    """`weft::Step`."""

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
        ("starts", _POINTER * 2),
    )
