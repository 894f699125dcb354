"""The records and enumerations that Python and C++ share. `weft.ops.generate` writes them in C++."""

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
            "exact": "1: results on the exact model's grid (see weft/ops/reference/exact_ops.py), computed in fp64",
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
            **dict.fromkeys(("sampled_positions", "sampled_row_ends"), "const int32_t*"),
            "starts": "const int64_t*",
        },
        notes={
            "rows": "by row register",
            "ids": "EMBED's where its operand has no base",
            "positions": "of the attention block's rows, like the next two",
            "row_ends": "cumulative rows of the runs",
            "block_tables": "[runs, table_width]",
            "sampled_rows": "ascending numbers among the rows that the rank holds of the residual stream",
            "sampled_positions": "of the attention block's sampled rows, like the next",
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
            "in_base": "the run that the input begins with",
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
        ("unused", ctypes.c_int32),
        ("keep_from", AreaRecord),
        ("keep_to", AreaRecord),
        ("sends", ctypes.POINTER(AreaRecord)),
        ("takes", ctypes.POINTER(AreaRecord)),
        ("sent", _POINTER),
        ("taken", _POINTER),
    )


class CommRecord(ctypes.Structure):
    """One rank's end of the shared region, and the collectives of library `comm` on it."""

    EXCHANGES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    cpp = Cpp(
        "CommCalls",
        types={
            "handle": "void*",
            "all_reduce": "int (*)(void*, uint32_t group, char* x, uint64_t count, int dtype)",
            "all_gather": "int (*)(void*, uint32_t group, const char* x, char* const* outs, const uint64_t* bytes, "
            "int dtype)",
            "reduce_scatter": "int (*)(void*, uint32_t group, const char* const* xs, const uint64_t* bytes, char* out, "
            "int dtype)",
            "all_to_all": "int (*)(void*, uint32_t group, const char* const* xs, const uint64_t* sent, "
            "char* const* outs, const uint64_t* received, int dtype)",
            "steal_ns": "const uint64_t*",
        },
        notes={"steal_ns": "time for which this rank has run stolen units"},
    )
    _fields_ = tuple((name, _POINTER) for name in ("handle", *EXCHANGES, "steal_ns"))


class TeamPortRecord(ctypes.Structure):
    """A rank's port as the team sees it that makes it; see steal_port.h."""

    cpp = Cpp(
        "TeamPort",
        types={"port": "StealPort*", "thieves": "ThiefSlot*", "left": "int (*)(void* comm)", "comm": "void*"},
        notes={
            "thieves": "one for each rank",
            "left": "returns once no rank is at work on what was open: 0, or why one will never be done",
        },
    )
    _fields_ = (*((name, _POINTER) for name in ("port", "thieves", "left", "comm")), ("ranks", ctypes.c_uint64))


class BoundStreamRecord(ctypes.Structure):
    """A second copy of lm_head from which bounds on logits are computed; lm_head_sketch.h says how it lies."""

    cpp = Cpp(
        "BoundStream",
        types={"data": "uint8_t*"},
        notes={"data": "null: there is none", "fine": "groups in fine values; all others are coarse"},
    )
    _fields_ = (("data", _POINTER), ("fine", ctypes.c_int32), ("groups", ctypes.c_int32))


class ArgmaxPrunerRecord(ctypes.Structure):
    """What bounds the logits that one instruction gives; see argmax_pruner.h."""

    cpp = Cpp(
        "ArgmaxPruner",
        types={
            **dict.fromkeys(("lengths", "most", "means", "tops"), "float*"),
            "order": "const int32_t*",
            "best": "uint64_t*",
        },
        notes={
            "instruction": "which of the program's gives the logits",
            "few": "for few rows, mostly coarse",
            "many": "for any number of rows, all fine",
            "lengths": "[groups] of all columns: the largest length of a group's codes; `most`: the largest number",
            "means": "[depth] of the matrix",
            "order": "[depth]: which of the matrix's stands there",
            "tops": "[most rows, pairs]: the highest bound of a row's columns",
            "best": "[most rows]: the largest logit so far, and where; see `key_of`",
            "looked": "pairs of columns, each of one row, that were computed so far",
            "pause": "how many steps it does nothing after one that brought nothing",
            "left": "how many of these are left",
        },
    )
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("instruction", "unused")),
        ("few", BoundStreamRecord),
        ("many", BoundStreamRecord),
        *((name, _POINTER) for name in ("lengths", "most", "means", "order", "tops", "best")),
        ("looked", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("pause", "left")),
    )


class DecodeRecord(ctypes.Structure):
    """A step in which every row of an attention block is a stream's; see decode_step.h."""

    cpp = Cpp(
        "Decode",
        types={
            **dict.fromkeys(("columns", "chosen_from", "rows_of"), "const int64_t*"),
            **dict.fromkeys(("highest", "last_ids", "ids", "chosen"), "int64_t*"),
            **dict.fromkeys(("tables", "positions", "places", "block_tables"), "int32_t*"),
            **dict.fromkeys(("logits", "local_logits"), "const float*"),
            **dict.fromkeys(("values", "all_values"), "double*"),
            "sampling": "const SamplingTable*",
            "pruner": "ArgmaxPruner*",
        },
        notes={
            "columns": "[3, rows]: slot, position, tokens that the request had generated",
            "tables": "[slots, table_width]: blocks of each slot",
            "highest": "of all blocks that ever came",
            "last_ids": "[slots]: the token that each slot was given last",
            "ids": "where a Step of these rows finds its inputs, as the next three; room for a row of each slot",
            "sampling": "null: nothing is chosen here",
            "chosen_from": "[slots]: from which output position on a slot's token can be chosen here",
            "logits": "[rows, vocabulary]",
            "own_first": "the first of the `own_count` rows that this rank samples",
            "values": "[own_count, 2]: of these, id and whether the logits were finite; room for every slot and one",
            "chosen": "[rows]: results",
            "group": "ranks that choose tokens of these rows",
            "members": "how many; 0: this rank chooses all",
            "chose": "result, a Chose",
            "rows_of": "[members]",
            "all_values": "[members]: room for those of every slot and one",
            "local_logits": "[rows, local_columns]: this rank's columns of all rows' logits; null: not known here",
            "pruner": "of the instruction that gives local_logits; null where there is none",
            "meets": "whether members exchange their first candidates in the next step",
        },
    )
    _fields_ = (
        ("columns", ctypes.c_char_p),
        *((name, ctypes.c_int64) for name in ("rows", "slots", "block_size", "table_width")),
        *((name, _POINTER) for name in ("tables", "highest", "last_ids", "ids", "positions", "places", "block_tables")),
        *((name, _POINTER) for name in ("sampling", "chosen_from", "logits")),
        *((name, ctypes.c_int64) for name in ("vocabulary", "own_first", "own_count")),
        *((name, _POINTER) for name in ("values", "chosen")),
        *((name, ctypes.c_int32) for name in ("group", "members", "position", "chose")),
        *((name, _POINTER) for name in ("rows_of", "all_values", "local_logits")),
        *((name, ctypes.c_int64) for name in ("local_columns", "first_column")),
        ("pruner", _POINTER),
        *((name, ctypes.c_int32) for name in ("meets", "unused")),
    )


class FollowingRecord(ctypes.Structure):
    """What a rank needs to run decode steps one after the other without Python; see decode_loop.h."""

    cpp = Cpp(
        "Following",
        types={
            "rows": "const int64_t*",
            "status": "Status*",
            **dict.fromkeys(("frame", "answer"), "uint8_t*"),
            "columns": "int64_t*",
        },
        notes={
            "fd": "a stream of frames, each after its length",
            "ranks": "of the stage",
            "reports": "whether it answers",
            "rows": "[ranks]: of the step",
            "own_rows": "those that this rank counts as its own",
            "frame": "room for a frame and its length; of longer ones no step here is made",
            "columns": "room for [3, slots]: of the step that was begun last",
            "answer": "room for all ids and kAnswerRoom",
            "steps": "result: how many were run",
            "busy_ns": "result: nanoseconds inside them",
        },
    )
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("fd", "ranks", "reports")),
        ("rows", _POINTER),
        ("own_rows", ctypes.c_int64),
        ("status", _POINTER),
        ("frame", _POINTER),
        ("frame_room", ctypes.c_int64),
        *((name, _POINTER) for name in ("columns", "answer")),
        *((name, ctypes.c_int64) for name in ("steps", "busy_ns")),
    )


RECORDS = (
    OperandRecord,
    InstructionRecord,
    StepRecord,
    WeightRecord,
    AreaRecord,
    ExchangeRecord,
    CommRecord,
    TeamPortRecord,
    BoundStreamRecord,
    ArgmaxPrunerRecord,
    DecodeRecord,
    FollowingRecord,
)
"""In an order in which each one's parts come before it."""
