"""A number in memory that a thread waits for without the interpreter."""

from __future__ import annotations

import ctypes
import threading
import time

import pytest

from tests.support.native_libraries import need
from weft.compute.native.step_library import Awaited, open_library

LONG_S = 120.0


@pytest.fixture
def number() -> ctypes.c_int64:
    need("step")
    return ctypes.c_int64(5)


def awaited(number: ctypes.c_int64) -> Awaited:
    library = open_library()
    assert library is not None
    return Awaited(library, ctypes.addressof(number))


@pytest.mark.parametrize(("than", "found"), [(4, True), (5, False), (6, False)])
def test_it_is_above_or_not(number: ctypes.c_int64, than: int, found: bool) -> None:
    assert awaited(number).above(than, 0.01) is found


def test_who_raises_it_is_seen(number: ctypes.c_int64) -> None:
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(awaited(number).above(7, LONG_S)))
    waiting.start()
    time.sleep(0.02)
    number.value = 7
    time.sleep(0.02)
    assert waiting.is_alive() and not found
    number.value = 8
    waiting.join(LONG_S / 2)
    assert found == [True]


def test_nobody_waits_behind_the_end(number: ctypes.c_int64) -> None:
    each, found = awaited(number), list[bool]()
    waiting = threading.Thread(target=lambda: found.append(each.above(7, LONG_S)))
    waiting.start()
    each.end()
    waiting.join(LONG_S / 2)
    assert found == [False]
    number.value = 9
    assert not each.above(7, LONG_S)
