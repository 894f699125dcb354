"""When Python's garbage collector runs, and what memory a process gives back to the system."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def not_collected() -> Iterator[None]:
    """For imports: little of what they make is garbage, so nothing is collected meanwhile, and what they leave is never
    looked at again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_all() -> None:
    """For the end of a start. What is not garbage now lives as long as the process: later collections need not look at
    it. Of the rest the system has its memory back."""
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """To the system, what is free in the heap and which the C library would keep below what was allocated last. Only
    glibc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
