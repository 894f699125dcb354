"""Signals that end the server, from the first lines of its start on: SIGTERM, and SIGHUP unless it was ignored (nohup).

Until the event loop takes them they end the start with `Stopped`, as Ctrl-C does with KeyboardInterrupt.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class Stopped(BaseException):
    """A signal came before there was a server that could drain."""


class EndSignals:
    """While it is entered, in the main thread, the first signal raises `Stopped` there; others are only noted, for then
    the start is being cleared away."""

    def __init__(self) -> None:
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._numbers = (signal.SIGTERM,) if ignored else (signal.SIGTERM, signal.SIGHUP)
        self._noted: list[str] = []
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> EndSignals:
        self._handle(self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From now on signals are noted: nothing may be raised while the event loop is made."""
        self._handle(self._note)

    def give_to(self, add_handler: Callable[..., object], end: Callable[[str], None]) -> None:
        """From now on the event loop whose `add_signal_handler` this is calls `end` with the name of each, also of
        Ctrl-C; with those noted before it is called at once."""
        for number in (signal.SIGINT, *self._numbers):
            add_handler(number, end, number.name)
        for name in self._noted:
            end(name)

    def _handle(self, handler: Callable[[int, FrameType | None], None]) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._numbers:
            before = signal.signal(number, handler)
            self._before.setdefault(number, before)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._note(number, frame)
        if len(self._noted) == 1:
            raise Stopped

    def _note(self, number: int, _: FrameType | None) -> None:
        self._noted.append(signal.Signals(number).name)
