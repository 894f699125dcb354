"""When Python's collector of garbage looks at what. Knows nothing of what is made."""

from __future__ import annotations

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
    """What is not garbage now lives as long as the process: later collections need not look at it."""
    gc.collect()
    gc.freeze()
