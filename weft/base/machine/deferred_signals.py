"""Python signal handlers that wait for the end of a call that must not be interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
"""Those whose handlers are wont to raise: Ctrl-C, an end, a hang-up, a time limit."""


class DeferredSignals:
    """While it is entered, in the main thread, the handler of a signal runs after the current `run`; that of a second
    signal runs at once. In other threads it does nothing. It may be entered again."""

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._came: list[tuple[int, FrameType | None]] = []
        self._runs = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler) and handler != self._note:
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # a generator that was left to the collector: signals go on to where they did
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._note:  # else other code has set another one, and may restore this
                signal.signal(number, handler)

    def run(self, call: Callable[[], T]) -> T:
        """What `call` gives. Whatever the handler of a signal that came meanwhile raises."""
        if self._runs:
            return call()
        self._runs = True
        try:
            return call()
        finally:
            self._runs = False
            if self._came:
                self._tell(*self._came.pop())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._runs or self._came:
            self._came.clear()
            self._tell(number, frame)
        else:
            self._came.append((number, frame))

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._handlers[number](number, frame)
