"""The records of collectives and decode steps, and the list of all that Python and C++ share."""

from __future__ import annotations

import ctypes

from weft.compute.native.records import (
    AreaRecord,
    Cpp,
    ExchangeRecord,
    InstructionRecord,
    OperandRecord,
    StepRecord,
    WeightRecord,
)

_POINTER = ctypes.c_void_p


class CommRecord(ctypes.Structure):
    """One rank's end of the shared region, and the collectives of library `comm` on it."""

    EXCHANGES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "recv")
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
            "send": "int (*)(void*, uint32_t group, const char* x, uint64_t bytes, int dtype)",
            "recv": "int (*)(void*, uint32_t group, char* x, uint64_t bytes, int dtype)",
        },
    )
    _fields_ = tuple((name, _POINTER) for name in ("handle", *EXCHANGES))


MaskCall = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int64)
FeedCall = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_bool)
"""`mask` and `feed` of a Decode record."""


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
            "has_grammar": "const uint8_t*",
            "masks": "const uint32_t**",
            "mask": "const uint32_t* (*)(int64_t slot)",
            "feed": "void (*)(int64_t slot, int64_t token, bool own)",
        },
        notes={
            "columns": "[3, rows]: slot, position, tokens that the request had generated",
            "block_size": "positions of a block that this rank keeps: it has every `owners`-th, of which it is `owner`",
            "tables": "[slots, table_width]: blocks of each slot",
            "highest": "of all blocks that ever came",
            "last_ids": "[slots]: the token that each slot was given last",
            "ids": "where a Step of these rows finds its inputs, as the next three; room for a row of each slot",
            "sampling": "null: nothing is chosen here",
            "chosen_from": "[slots]: from which output position on a slot's token can be chosen here",
            "logits": "[rows, vocabulary]",
            "own_first": "the first of the `own_count` rows that this rank samples",
            "values": "[own_count, 2]: of these, id and whether the logits were finite; room for every slot",
            "chosen": "[rows]: results",
            "group": "ranks that choose tokens of these rows",
            "members": "how many; 0: this rank chooses all",
            "chose": "result, a Chose",
            "rows_of": "[members]",
            "all_values": "[members]: room for those of every slot",
            "local_logits": "[rows, local_columns]: this rank's columns of all rows' logits; null: not known here",
            "grammars": "how many slots have one",
            "has_grammar": "[slots]",
            "masks": "room for one of every slot",
            "mask": "bits of the ids that may come next in a slot that has a grammar; null: Python must choose",
            "feed": "a slot that has a grammar was given a token; own: this rank sampled it",
        },
    )
    _fields_ = (
        ("columns", ctypes.c_char_p),
        *((name, ctypes.c_int64) for name in ("rows", "slots", "block_size", "owner", "owners", "table_width")),
        *((name, _POINTER) for name in ("tables", "highest", "last_ids", "ids", "positions", "places", "block_tables")),
        *((name, _POINTER) for name in ("sampling", "chosen_from", "logits")),
        *((name, ctypes.c_int64) for name in ("vocabulary", "own_first", "own_count")),
        *((name, _POINTER) for name in ("values", "chosen")),
        *((name, ctypes.c_int32) for name in ("group", "members", "position", "chose")),
        *((name, _POINTER) for name in ("rows_of", "all_values", "local_logits")),
        *((name, ctypes.c_int64) for name in ("local_columns", "first_column")),
        *((name, ctypes.c_int32) for name in ("grammars", "unused")),
        *((name, _POINTER) for name in ("has_grammar", "masks", "mask", "feed")),
    )


class DecodeShapeRecord(ctypes.Structure):
    """What steps of streams have in common that have as many rows as each other on every rank; see decode_loop.h."""

    cpp = Cpp(
        "DecodeShape",
        types=dict.fromkeys(("of_ranks", "rows_of"), "const int64_t*"),
        notes={
            "step": "their counts, and where a Decode puts their inputs",
            "of_ranks": "[ranks]: rows of each rank of the stage",
            "rows": "as of Decode, like the next three",
            "counted": "rows that this rank counts as its own",
        },
    )
    _fields_ = (
        ("step", StepRecord),
        ("of_ranks", _POINTER),
        *((name, ctypes.c_int64) for name in ("rows", "own_first", "own_count")),
        ("rows_of", _POINTER),
        ("counted", ctypes.c_int64),
    )


class StageIdsRecord(ctypes.Structure):
    """Sampled ids on their way from the last pipeline stage to the first; see stage_ids.h."""

    cpp = Cpp(
        "StageIds",
        types={"queue": "int64_t*", "values": "double*"},
        notes={
            "takes": "whether this rank's stage receives them",
            "gives": "whether it sends them",
            "group": "the pair's number",
            "failed": "result: whether an exchange of ids failed",
            "low": "rank of the world, like the next: the pair",
            "queue": "[room, width], a ring: of a step whose ids have not arrived its number, how many rows it samples,"
            " and their slots (-1: a row that gives no token)",
            "first": "counts steps whose ids came",
            "end": "counts steps that were sent on",
            "values": "[width - 2, 2]: an id and 1",
        },
    )
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("takes", "gives", "group", "failed", "low", "high")),
        ("queue", _POINTER),
        *((name, ctypes.c_int64) for name in ("room", "width", "first", "end")),
        ("values", _POINTER),
    )


class FollowingRecord(ctypes.Structure):
    """What a rank needs to run decode steps one after the other without Python; see decode_loop.h."""

    cpp = Cpp(
        "Following",
        types={
            "shapes": "DecodeShape*",
            "ids": "StageIds*",
            "status": "Status*",
            **dict.fromkeys(("frame", "answer"), "uint8_t*"),
            "columns": "int64_t*",
        },
        notes={
            "fd": "a stream of frames, each after its length",
            "ranks": "of the stage",
            "reports": "whether it answers",
            "samples": "whether it is of the last pipeline stage",
            "shapes": "[count]: those that steps may have",
            "current": "result: the shape of the step that was begun last; -1: none was",
            "frame": "room for a frame and its length; of longer ones no step here is made",
            "columns": "room for [3, slots]: of the step that was begun last",
            "answer": "room for all ids and kAnswerRoom",
            "steps": "result: how many were run",
            "counted": "result: rows of them that this rank counts as its own",
            "busy_ns": "result: nanoseconds inside them",
        },
    )
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("fd", "ranks", "reports", "samples")),
        ("shapes", _POINTER),
        *((name, ctypes.c_int32) for name in ("count", "current")),
        *((name, _POINTER) for name in ("ids", "status", "frame")),
        ("frame_room", ctypes.c_int64),
        *((name, _POINTER) for name in ("columns", "answer")),
        *((name, ctypes.c_int64) for name in ("steps", "counted", "busy_ns")),
    )


RECORDS = (
    OperandRecord,
    InstructionRecord,
    StepRecord,
    WeightRecord,
    AreaRecord,
    ExchangeRecord,
    CommRecord,
    DecodeRecord,
    DecodeShapeRecord,
    StageIdsRecord,
    FollowingRecord,
)
"""In an order in which each one's parts come before it."""
