"""The records of `runtime/instruction.h` as ctypes structures."""

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
    """One of 16 numbers per code, times a scale (plus an offset) per 32 of depth; both in 16 bits, or in 16 each."""
    INT8G = 5
    """A code and one scale per 32 of depth."""
    BF12 = 6
    """The numbers of BF16, all of them, in 12 bits each and a few apart: `native/kernels/quant/lossless_bf16.h`."""


class Epilogue(IntEnum):
    """What a linear does with its sums."""

    STORE = 0
    SILU_MUL_OF = 1
    ADD_TO = 2


class Chose(IntEnum):
    """Of which rows a decode step chose the token; decode_step.h says more."""

    NONE = 0
    FROM_LOGITS = 1
    LARGEST = 2
    """Of all, without bringing logits together: those that the program gave are an earlier step's."""


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
        ("table", _POINTER),
        ("rounds_rows", ctypes.c_int32),
        ("short_numbers", ctypes.c_int32),
        ("numbers", _POINTER),
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
        ("n", ctypes.c_int32 * 12),
        ("f", ctypes.c_double * 2),
        ("p", _POINTER * 12),
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
        ("sampled_positions", _POINTER),
        ("sampled_row_ends", _POINTER),
        ("starts", _POINTER * 2),
    )


class AreaRecord(ctypes.Structure):
    """`weft::Area`."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("present", "lo", "hi", "left", "right", "whole"))


class ExchangeRecord(ctypes.Structure):
    """`weft::Exchange`."""

    _fields_ = (
        ("group", ctypes.c_int32),
        ("members", ctypes.c_int32),
        ("position", ctypes.c_int32),
        ("table", ctypes.c_int32),
        ("in_base", ctypes.c_int32),
        ("out_base", ctypes.c_int32),
        ("keeps", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("keep_from", AreaRecord),
        ("keep_to", AreaRecord),
        ("sends", ctypes.POINTER(AreaRecord)),
        ("takes", ctypes.POINTER(AreaRecord)),
        ("sent", _POINTER),
        ("taken", _POINTER),
    )


class CommRecord(ctypes.Structure):
    """`weft::CommCalls`."""

    EXCHANGES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    _fields_ = tuple((name, _POINTER) for name in ("handle", *EXCHANGES, "steal_ns"))


class TeamPortRecord(ctypes.Structure):
    """`weft::Offering` of steal_port.h."""

    _fields_ = (*((name, _POINTER) for name in ("offer", "visits", "left", "comm")), ("ranks", ctypes.c_uint64))


class DecodeRecord(ctypes.Structure):
    """`weft::Decode` of decode_step.h."""

    _fields_ = (
        ("columns", ctypes.c_char_p),
        *((name, ctypes.c_int64) for name in ("rows", "slots", "block_size", "table_width")),
        *((name, _POINTER) for name in ("tables", "highest", "last_ids", "ids", "positions", "places", "block_tables")),
        ("sampling", _POINTER),
        ("chosen_from", _POINTER),
        ("logits", _POINTER),
        *((name, ctypes.c_int64) for name in ("vocabulary", "own_first", "own_count")),
        ("values", _POINTER),
        ("chosen", _POINTER),
        *((name, ctypes.c_int32) for name in ("group", "members", "position", "chose")),
        ("rows_of", _POINTER),
        ("all_values", _POINTER),
        ("local_logits", _POINTER),
        *((name, ctypes.c_int64) for name in ("local_columns", "first_column")),
        ("pruner", _POINTER),
        *((name, ctypes.c_int32) for name in ("meets", "unused")),
    )


class BoundStreamRecord(ctypes.Structure):
    """`weft::BoundStream` of lm_head_sketch.h."""

    _fields_ = (("data", _POINTER), ("fine", ctypes.c_int32), ("groups", ctypes.c_int32))


class ArgmaxPrunerRecord(ctypes.Structure):
    """`weft::Screen` of argmax_pruner.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("instruction", "unused")),
        ("few", BoundStreamRecord),
        ("many", BoundStreamRecord),
        *((name, _POINTER) for name in ("lengths", "most", "means", "order", "tops", "best")),
        ("looked", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("pause", "left")),
    )


class FollowingRecord(ctypes.Structure):
    """`weft::Following` of decode_loop.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("fd", "group", "groups", "reports")),
        ("rows", _POINTER),
        ("own_rows", ctypes.c_int64),
        ("status", _POINTER),
        ("frame", _POINTER),
        ("frame_room", ctypes.c_int64),
        ("columns", _POINTER),
        ("answer", _POINTER),
        *((name, ctypes.c_int64) for name in ("steps", "busy_ns")),
    )
