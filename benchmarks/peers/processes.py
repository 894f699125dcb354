"""Drivers and servers as processes: started, asked, measured, ended."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from benchmarks.peers.process_tree import memory, runs, tree

STOP_LIMIT_S = 30.0
REFUSAL = "weft serve: "
"""How our own server says that it does not do what was asked."""


class Refused(Exception):
    """The engine does not do what was asked."""


class Failed(Exception):
    """It ended, took too long or answered with an error."""


class Child:
    """A process and all it starts. `close` (or `with`) ends every one of them; the process itself cannot outlive this
    one, whatever ends it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        tie = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        self.began = time.perf_counter()
        self.log = log
        with log.open("a") as out:
            out.write(f"$ {' '.join(command)}\n")
            out.flush()
            self.process = subprocess.Popen(
                [*tie, *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True,
                env=dict(environment), start_new_session=True,
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name="output", daemon=True)

    def _read(self) -> None:
        """Takes what the process prints, to its end."""

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.perf_counter() - self.began

    def memory(self) -> dict[str, int]:
        """Of the whole tree, bytes."""
        return memory(self.process.pid)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stops every process of the tree for as long as the context lasts: none can spin beside what is asked then."""
        everyone = tree(self.process.pid)
        for pid in everyone:
            _signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in everyone:
                _signal(pid, signal.SIGCONT)

    def failure(self) -> Failed | Refused:
        """What to raise for a process that has ended."""
        code = self.process.wait(STOP_LIMIT_S)
        self._reader.join(STOP_LIMIT_S)
        if said := [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith(REFUSAL)]:
            return Refused(said[0].removeprefix(REFUSAL))
        return Failed(f"ended with exit code {code}; it said last: {last_line(self.log)}")

    def close(self) -> None:
        """Asks by closing the input, then by signal, then by force."""
        everyone = tree(self.process.pid)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self._end()
        _await_end([pid for pid in everyone[1:] if _kill(pid, self.process.pid)])
        self._reader.join(STOP_LIMIT_S)
        self.process.stdout.close()

    def _end(self) -> None:
        for sign in (None, signal.SIGTERM, signal.SIGKILL):
            if sign is not None:
                self.process.send_signal(sign)
            try:
                self.process.wait(STOP_LIMIT_S if sign is not None else self.patience_s)
                return
            except subprocess.TimeoutExpired:
                continue

    patience_s = STOP_LIMIT_S
    """How long it may take to end once its input has."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DriverProcess(Child):
    """A driver; `ask` sends a command and waits for the answer."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        super().__init__(command, environment, log)
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, do: str, limit_s: float, **words: Any) -> dict[str, Any]:
        """The answer. Refused or Failed otherwise."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **words}) + "\n")
            self.process.stdin.flush()
            line = self._answers.get(timeout=limit_s)
        except BrokenPipeError:
            raise self.failure() from None
        except queue.Empty:
            raise Failed(f"no answer to {do} after {limit_s:g} s") from None
        if not line:
            raise self.failure()
        answer = json.loads(line)
        if "refused" in answer:
            raise Refused(answer["refused"])
        if "error" in answer:
            raise Failed(answer["error"])
        return dict(answer["ok"])


class ServerProcess(Child):
    """A server; its output goes to the log."""

    patience_s = 0.0

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        super().__init__(command, environment, log)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("a") as out:
            for line in self.process.stdout:
                out.write(line)


def last_line(log: Path) -> str:
    """The last line that says something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "nothing"


def _await_end(pids: Sequence[int], limit_s: float = STOP_LIMIT_S) -> None:
    """Until none of them runs. They are not our children, so no signal comes: a killed process takes a while to go."""
    until = time.perf_counter() + limit_s
    while any(runs(pid) for pid in pids) and time.perf_counter() < until:
        time.sleep(0.01)


def _kill(pid: int, session: int) -> bool:
    """What is left of a session that was ours; whether this was."""
    try:
        if ours := os.getsid(pid) == session:
            os.kill(pid, signal.SIGKILL)
        return ours
    except ProcessLookupError:
        return False


def _signal(pid: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, sign)
