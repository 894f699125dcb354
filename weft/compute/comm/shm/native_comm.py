"""The C++ library `comm` as ctypes sees it: its functions, and in words what ended a collective. No torch.

`weft/compute/native/runtime/comm/region.h` has the same `Failure`.
"""

from __future__ import annotations

import ctypes

from weft.base.errors import ConfigError
from weft.base.plural import numbered
from weft.compute.comm.shm.region import MAX_MEMBERS, CollectiveKind
from weft.compute.native import load, missing_reason
from weft.parallel.layout.ranks import Group

DTYPE_NAMES = ("float32", "float64", "bfloat16", "float16", "int32", "int64")
"""By number, in the order of `DType` in runtime/comm/sums.h."""

TEXT_BYTES = 256
_DEAD, _GAVE_UP, _CLOSED, _TIMED_OUT = 1, 2, 3, 4


class Failure(ctypes.Structure):
    """What ended a collective."""

    _fields_ = [
        ("code", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("blamed", ctypes.c_int32),
        ("missing_count", ctypes.c_int32),
        ("my_kind_dtype", ctypes.c_uint32),
        ("their_kind_dtype", ctypes.c_uint32),
        ("my_call", ctypes.c_uint32),
        ("their_call", ctypes.c_uint32),
        ("my_bytes", ctypes.c_uint64),
        ("their_bytes", ctypes.c_uint64),
        ("missing", ctypes.c_int32 * MAX_MEMBERS),
        ("my_text", ctypes.c_char * TEXT_BYTES),
        ("their_text", ctypes.c_char * TEXT_BYTES),
    ]


def open_library() -> ctypes.CDLL:
    """The library with its signatures; ConfigError where there is none."""
    library = load("comm")
    if library is None:
        raise ConfigError(
            f"comm shared_memory: {missing_reason('comm')}; gloo works without it",
            field="comm",
            value="shared_memory",
            legal=("gloo",),
        )
    pointer, size, number = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int
    signatures = {
        "open": (pointer, (number, size, number, ctypes.c_uint32)),
        "connect": (number, (pointer, pointer, pointer)),
        "close": (None, (pointer,)),
        "describe": (None, (pointer, ctypes.c_char_p)),
        "failure": (ctypes.POINTER(Failure), (pointer,)),
        "all_reduce": (number, (pointer, number, pointer, size, number)),
        "all_gather": (number, (pointer, number, pointer, pointer, pointer, number)),
        "reduce_scatter": (number, (pointer, number, pointer, pointer, pointer, number)),
        "all_to_all": (number, (pointer, number, pointer, pointer, pointer, pointer, number)),
        "barrier": (number, (pointer, number)),
        "send": (number, (pointer, number, pointer, size, number)),
        "recv": (number, (pointer, number, pointer, size, number)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"weft_comm_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def explain_failure(failure: Failure, kind: str, group: Group, rank: int, timeout: float) -> str:
    """The sentence of the PeerError: which rank is at fault, and what this rank was in."""
    where = f"rank {rank} was in {kind} over {group}"
    if failure.code == _DEAD:
        return f"rank {failure.rank} died; {where}"
    if failure.code == _GAVE_UP:
        cause = "after an error of its own" if failure.blamed in (-1, rank) else f"on rank {failure.blamed}"
        return f"rank {failure.rank} gave up {cause}; {where}"
    if failure.code == _CLOSED:
        return f"rank {failure.rank} has closed its end; {where}"
    if failure.code == _TIMED_OUT:
        missing = failure.missing[: failure.missing_count]
        return f"{numbered(missing)} did not come within {timeout:g} s; {where}"
    mine = _call_in_words(failure.my_kind_dtype, failure.my_call, failure.my_bytes, failure.my_text)
    theirs = _call_in_words(failure.their_kind_dtype, failure.their_call, failure.their_bytes, failure.their_text)
    calls = f"rank {rank}: {mine}; rank {failure.rank}: {theirs}"
    return f"ranks {rank} and {failure.rank} disagree over {group}: {calls}"


def is_mismatch(failure: Failure) -> bool:
    """Whether ranks called different collectives."""
    return failure.code not in (_DEAD, _GAVE_UP, _CLOSED, _TIMED_OUT)


def _call_in_words(kind_dtype: int, call: int, size: int, text: bytes) -> str:
    kind, dtype = CollectiveKind(kind_dtype >> 8), DTYPE_NAMES[kind_dtype & 255]
    described = text.decode("ascii", "replace") or (
        kind.name.lower() + ("" if kind is CollectiveKind.BARRIER else f" of {dtype}")
    )
    return f"call {call}, {described}, {size} bytes"
