"""A server of our own for a benchmark: `weft serve` in a process that cannot outlive this one. Reads its output."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

from weft.base.errors import UnavailableError, WeftError
from weft.base.machine.interpreter import finding_weft

START_LIMIT_S = 1800.0
STOP_LIMIT_S = 40.0
_READY = re.compile(r"ready on (http\S+);")

Say = Callable[[str], None]


class ServeFailed(WeftError):
    """The server ended without being stopped; `exit_code` is its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Served:
    """`weft serve` with these words; `url` once it is ready. `close` (or `with`) ends it and waits for its end."""

    def __init__(self, program: Sequence[str], words: Sequence[str], say: Say = lambda _: None) -> None:
        """`program LIFELINE_FD PARENT_PID BY_SIGNAL words...` must run the server."""
        self._say, self._lines = say, deque[str](maxlen=40)
        self._ready = threading.Event()
        self.url = ""
        read_end, self._lifeline = os.pipe2(os.O_CLOEXEC)
        main_thread = threading.current_thread() is threading.main_thread()
        tie = [str(read_end), str(os.getpid()), "1" if main_thread else "0"]
        try:
            # A group of its own: Ctrl-C reaches the benchmark alone, which then ends the server in order.
            self._process = subprocess.Popen(
                [*program, *tie, *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                pass_fds=(read_end,), process_group=0, text=True, errors="replace", env=finding_weft(os.environ),
            )  # fmt: skip
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(read_end)
        self._reader = threading.Thread(target=self._read, name="server output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
            if match := _READY.search(line):
                self.url = match[1]
                self._ready.set()
            elif not self._ready.is_set():
                self._say(line.rstrip())
        self._ready.set()

    def wait_ready(self, limit_s: float = START_LIMIT_S) -> str:
        """The server's address. ServeFailed: it ended instead; UnavailableError: it took too long."""
        deadline = time.monotonic() + limit_s
        while not self._ready.wait(0.2):  # in slices, so that Ctrl-C is heard
            if time.monotonic() > deadline:
                raise UnavailableError(f"the server was not ready after {limit_s:g} s; it said last: {self._last()}")
        if not self.url:
            raise self.failure()
        return self.url

    def failure(self) -> ServeFailed:
        """What to raise for a server that has ended."""
        code = self._process.wait(STOP_LIMIT_S)
        self._reader.join(STOP_LIMIT_S)
        fate = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        return ServeFailed(f"the server ended ({fate}): {self._last()}", code if code > 0 else WeftError.exit_code)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def _last(self) -> str:
        """Its own error, which stands last but for hints."""
        said = [line for line in self._lines if line.startswith("weft serve: ")] or [
            line for line in self._lines if line
        ]
        return said[-1].removeprefix("weft serve: ") if said else "nothing"

    def close(self) -> None:
        """Ends it in order, then by force; safe to call twice."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            finally:
                if self._process.poll() is None:
                    self._process.kill()
                    self._process.wait(STOP_LIMIT_S)
        self._reader.join(STOP_LIMIT_S)
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
            if self._process.stdout is not None:
                self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
