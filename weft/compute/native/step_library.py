"""The library `step` as ctypes sees it: its functions, a pool of threads, and programs that the pool runs.

Knows the records of `records.py`; no tensor, no layer.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence

from weft.base.errors import ConfigError, WeftError
from weft.compute.native.libraries import load, missing_reason
from weft.compute.native.records import InstructionRecord, StepRecord
from weft.compute.native.runtime_records import RECORDS, CommRecord, DecodeRecord, FollowingRecord

SPIN_ALONE_NS = 500_000
"""How long a thread spins before it sleeps where the cores are its own: a step's gaps are shorter."""
SPIN_SHARED_NS = 20_000
"""The same where other ranks want the cores."""

UNCHOSEN = -2
"""What `Program.follow` gives where a step ran and its tokens are still to be chosen."""

_POINTER = ctypes.c_void_p
_SIGNATURES = {
    "weft_pool_new": (_POINTER, (ctypes.c_int, _POINTER, ctypes.c_int64, _POINTER)),
    "weft_pool_pin": (ctypes.c_int, (_POINTER, _POINTER)),
    "weft_pool_free": (None, (_POINTER,)),
    "weft_pool_yield_core": (None, (_POINTER, ctypes.c_int)),
    "weft_pool_stealing": (None, (_POINTER, ctypes.c_int)),
    "weft_program_new": (_POINTER, (_POINTER, _POINTER, ctypes.c_int, _POINTER)),
    "weft_program_free": (None, (_POINTER,)),
    "weft_program_run": (ctypes.c_int, (_POINTER, _POINTER)),
    "weft_program_decode": (ctypes.c_int, (_POINTER, _POINTER, _POINTER)),
    "weft_decode_follow": (ctypes.c_int, (_POINTER, _POINTER, _POINTER)),
    "weft_program_profile": (None, (_POINTER, ctypes.c_int)),
    "weft_program_spent_ns": (ctypes.POINTER(ctypes.c_int64), (_POINTER,)),
    "weft_program_failed_at": (ctypes.c_int, (_POINTER,)),
    "weft_program_exchange_ns": (ctypes.c_int64, (_POINTER,)),
    "weft_program_received": (ctypes.c_uint64, (_POINTER,)),
    "weft_program_stage_wait_ns": (ctypes.c_int64, (_POINTER,)),
    "weft_run_one": (ctypes.c_int, (_POINTER, _POINTER, _POINTER)),
    "weft_attention_workspace": (ctypes.c_int64, (ctypes.c_int, ctypes.c_int64, ctypes.c_int, _POINTER)),
    "weft_packed_sizes": (None, (*[ctypes.c_int] * 4, _POINTER)),
    "weft_lut_bytes": (ctypes.c_int64, ()),
    "weft_fill_lut": (None, (_POINTER, _POINTER)),
    "weft_pack": (ctypes.c_int, (_POINTER, _POINTER, _POINTER, ctypes.c_int, ctypes.c_int64, _POINTER)),
    "weft_suits_bf16_12bit": (ctypes.c_int, ()),
    "weft_unpack": (None, (_POINTER, _POINTER, ctypes.c_int64, ctypes.c_int64, _POINTER)),
    "weft_decode_blocks": (ctypes.c_int, (ctypes.c_char_p, _POINTER, ctypes.c_int64, ctypes.c_int, _POINTER)),
    "weft_sample": (None, (_POINTER, _POINTER, *[ctypes.c_int64] * 3, *[_POINTER] * 4, ctypes.c_int64, _POINTER)),
    "weft_await_above": (ctypes.c_int, (_POINTER, ctypes.c_int64, _POINTER, ctypes.c_int64, ctypes.c_int64)),
    "weft_step_record_bytes": (ctypes.c_int, (ctypes.c_int,)),
}


def open_library() -> ctypes.CDLL | None:
    """The library with its signatures; None where there is none (`missing_reason('step')` says why)."""
    library = load("step")
    return None if library is None else bound(library)


def bound(library: ctypes.CDLL) -> ctypes.CDLL:
    """`library`, any variant of `step`, with its signatures. WeftError where its records are not ours."""
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, list(arguments)
    for number, record in enumerate(RECORDS):
        if library.weft_step_record_bytes(number) != ctypes.sizeof(record):
            raise WeftError(f"native library step: its {record.__name__} has another size than ours; run `make native`")
    return library


class Awaited:
    """A number in memory, int64, that a thread waits for without the interpreter."""

    SLICE_NS = 50_000_000
    """Between two looks."""

    def __init__(self, library: ctypes.CDLL, address: int) -> None:
        """`address`: valid as long as a thread waits."""
        self._library, self._address, self._ended = library, address, ctypes.c_int32()

    def above(self, than: int, seconds: float) -> bool:
        """Waits, for so many seconds at most, until it is above `than`; whether it is. Returns early once `end` was
        called."""
        ended = ctypes.byref(self._ended)
        return bool(self._library.weft_await_above(self._address, than, ended, self.SLICE_NS, int(1e9 * seconds)))

    def end(self) -> None:
        """By any thread: ends all waits."""
        self._ended.value = 1


class Pool:
    """Threads that run programs; the caller's is one of them. Ends with `close`."""

    def __init__(self, library: ctypes.CDLL, threads: int, cores: Sequence[int] = (), spin_ns: int = SPIN_ALONE_NS):
        """`cores`: one for each thread to be pinned to, or none. ConfigError where a thread cannot be made."""
        self.lib, self.threads, self.cores = library, threads, tuple(cores)
        places = (ctypes.c_int32 * threads)(*cores) if cores else None
        error = ctypes.c_int32()
        self.handle: int | None = library.weft_pool_new(threads, places, spin_ns, ctypes.byref(error))
        if not self.handle:
            where = f" on cores {list(cores)}" if cores else ""
            raise ConfigError(
                f"threads {threads}{where}: {os.strerror(error.value)}; give fewer threads or other cores",
                field="threads",
                value=threads,
            )
        self._end = weakref.finalize(self, library.weft_pool_free, self.handle)

    def pin(self, cores: Sequence[int]) -> None:
        """Keeps the caller's thread on the first core and each other one on the next. ConfigError: fewer cores than
        threads, or one that this process may not use."""
        if len(cores) < self.threads:
            raise ConfigError(
                f"{self.threads} threads on {len(cores)} cores {list(cores)}: give fewer threads or more cores",
                field="threads",
                value=self.threads,
            )
        error = self.lib.weft_pool_pin(self.handle, (ctypes.c_int32 * self.threads)(*cores[: self.threads]))
        if error:
            raise ConfigError(f"cores {list(cores)}: {os.strerror(error)}", field="threads", value=self.threads)
        self.cores = tuple(cores[: self.threads])

    def steal(self, on: bool) -> None:
        """Whether threads that have nothing left steal units of others, as they do at first: results are the same."""
        self.lib.weft_pool_stealing(self.handle, int(on))

    def yield_core(self, on: bool) -> None:
        """Whether the last thread, where it is not the only one, yields its core when a program begins, and
        joins between two instructions once the core is free; off at first. Results are the same."""
        self.lib.weft_pool_yield_core(self.handle, int(on))

    def run_one(self, instruction: InstructionRecord, step: StepRecord) -> None:
        """WeftError where the library has no kernel for it."""
        if self.lib.weft_run_one(self.handle, ctypes.byref(instruction), ctypes.byref(step)):
            raise WeftError(f"the native library has no kernel for instruction {instruction.op}")

    def attention_workspace(self, positions: int, dim: int) -> tuple[int, int]:
        """Bytes that ATTENTION wants (zeroed once) for contexts of `positions` tokens, and its number of chunks."""
        chunks = ctypes.c_int32()
        nbytes = self.lib.weft_attention_workspace(self.threads, positions, dim, ctypes.byref(chunks))
        return int(nbytes), chunks.value

    def close(self) -> None:
        """Ends the threads; safe to call twice."""
        self.handle = None
        self._end()


class Program:
    """Instructions, and what they point to, kept while the program lives."""

    def __init__(
        self,
        pool: Pool,
        code: Sequence[InstructionRecord],
        comm: CommRecord | None,
        keeps: Sequence[object],
    ) -> None:
        """WeftError where the library has no kernel for an instruction."""
        self._pool, self._keeps, self.count = pool, tuple(keeps), len(code)
        records = (InstructionRecord * len(code))(*code)
        given = None if comm is None else ctypes.byref(comm)
        self._run: Callable[..., int] = pool.lib.weft_program_run
        self._decode: Callable[..., int] = pool.lib.weft_program_decode
        self._handle: int | None = pool.lib.weft_program_new(pool.handle, records, len(code), given)
        if not self._handle:
            raise WeftError("a step program has an instruction that the native library does not know")

    def run(self, step: StepRecord, decode: DecodeRecord | None = None) -> int:
        """0, or the code of the collective that failed. `decode` says how to make the step's inputs; negative where
        that is not possible, and nothing was done."""
        if decode is None:
            return self._run(self._handle, ctypes.byref(step))
        return self._decode(self._handle, ctypes.byref(step), ctypes.byref(decode))

    def follow(self, decode: DecodeRecord, following: FollowingRecord) -> int:
        """Reads frames and runs their decode steps, as long as each has one of the shapes of `following`. 0: the next
        frame is for Python, or none will come; UNCHOSEN: the same, but its step has run and only its tokens are still
        to be chosen; otherwise the code of the collective that failed."""
        pointers = map(ctypes.byref, (decode, following))
        return int(self._pool.lib.weft_decode_follow(self._handle, *pointers))

    @property
    def failed_at(self) -> int:
        """Which instruction's collective failed last."""
        return int(self._pool.lib.weft_program_failed_at(self._handle))

    @property
    def exchange_ns(self) -> int:
        """Nanoseconds inside collectives so far, waiting for peers included."""
        return int(self._pool.lib.weft_program_exchange_ns(self._handle))

    @property
    def stage_wait_ns(self) -> int:
        """Of these, inside messages of other pipeline stages."""
        return int(self._pool.lib.weft_program_stage_wait_ns(self._handle))

    @property
    def received(self) -> int:
        """Bytes from other ranks so far."""
        return int(self._pool.lib.weft_program_received(self._handle))

    def profile(self, on: bool) -> None:
        """Starts counting anew, or stops."""
        self._pool.lib.weft_program_profile(self._handle, int(on))

    def spent_us(self) -> list[float]:
        """Microseconds of each instruction since `profile(True)`, its barrier included."""
        spent = self._pool.lib.weft_program_spent_ns(self._handle)
        return [spent[index] / 1000 for index in range(self.count)]

    def close(self) -> None:
        """Frees the program; safe to call twice."""
        handle, self._handle = self._handle, None
        if handle:
            self._pool.lib.weft_program_free(handle)


def why_missing() -> str:
    """Why `open_library` gives None, for a person."""
    return missing_reason("step")
