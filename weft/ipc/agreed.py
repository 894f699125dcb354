"""What the ranks of an engine agree on, and the engine with them, through memory that they share: whether another step
of a plan follows whose steps are answered one by one. The first rank decides. Knows no plan and no message.

Twin of `goes_on` in `native/step/following.h`, which ranks call whose steps run in C++; either may wait for the other.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import time

AGREED_BYTES = 64
_WORD = struct.Struct("Q")  # of the machine's own form: who reads finds what was, what is, or 0, which is no decision
_STOP, _DECIDED, _STOPPED = 0, 8, 16
_LOOK_S = 20e-6


class Agreed:
    """`weft::Agreed`, in AGREED_BYTES of `memory` from `offset` on."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory, self._offset = memory, offset

    @property
    def address(self) -> int:
        """For C++; the memory stays mapped from then on."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._memory, self._offset))

    def stop(self, plan: int) -> None:
        """No step of the plan with this index follows the one in hand. By the engine, in any thread; nothing where the
        memory is closed already."""
        try:
            self._write(_STOP, plan + 1)
        except (TypeError, ValueError):
            if not self._memory.closed:
                raise

    def decide(self, plan: int, step: int) -> bool:
        """Whether step `step` of the plan, 1 or more, is to run. By the first rank."""
        if self._read(_STOP) == plan + 1:
            self._write(_STOPPED, plan + 1)
            return False
        self._write(_DECIDED, plan + step)
        return True

    def hear(self, plan: int, step: int, most: int) -> bool:
        """What the first rank has decided on that, of a plan of `most` steps at most; waits for it. By the others."""
        while True:
            stopped = self._read(_STOPPED) == plan + 1
            if 0 <= self._read(_DECIDED) - (plan + step) < most:
                return True
            if stopped:
                return False
            time.sleep(_LOOK_S)

    def _read(self, word: int) -> int:
        return int(_WORD.unpack_from(self._memory, self._offset + word)[0])

    def _write(self, word: int, value: int) -> None:
        _WORD.pack_into(self._memory, self._offset + word, value)
