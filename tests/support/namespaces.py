"""Hosts for tests: namespaces of net, pid, mount, uts, ipc and time, one core each, connected by a veth pair.

A host has its own names, clocks, processes, shared memory and temporary folder; only the file system below is common.
"""

from __future__ import annotations

import ctypes
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import pytest

from tests.support.waiting import alive, children, command_line, until

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc", "--time")
CLONE_NEWNET = 0x40000000


def why_not() -> str:
    """Why this system gives no namespaces; empty where it does."""
    words = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "--monotonic", "100", "ip", "link", "set", "lo", "up"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        return f"no {error.filename}"
    return "" if done.returncode == 0 else f"unshare: {done.stderr.strip()}"


@dataclass
class Command:
    """A weft command on a host; `lines` of what it prints."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    code: int | None = None

    def __post_init__(self) -> None:
        self._new: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def says(self, pattern: str, limit_s: float = 120.0, start: int = 0) -> re.Match[str]:
        """Waits for a line; `start`: characters of what was said before."""
        deadline = time.monotonic() + limit_s
        while True:
            if ended := self.process.poll() is not None:
                self._reader.join(10)  # it may have printed the line before
            found = re.search(pattern, self.text[start:], re.M)
            if found:
                return found
            assert not ended and time.monotonic() < deadline, f"no {pattern!r} in:\n{self.text}"
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """Of weft, as this process sees it."""
        return children(self.process.pid)[0]

    def ranks(self) -> list[int]:
        """Pids of the command's ranks, as this process sees them."""
        mine = children(self.pid)
        return [pid for pid in mine if b"weft.runtime.worker.main" in command_line(pid) and alive(pid)]

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self, limit_s: float = 60.0) -> int:
        """Its exit code."""
        code = self.process.wait(limit_s)
        self._reader.join(10)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            for pid in children(self.process.pid):
                os.kill(pid, signal.SIGKILL)
        self.end()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Host:
    """One host: `address` on `interface`, all of its processes on one core."""

    interface = "eth0"

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.address = number, f"10.77.0.{number + 1}"
        self.switch: Host | None = None
        self.folder = folder / f"host{number}"
        self.folder.mkdir()
        self.core = sorted(os.sched_getaffinity(0))[number % len(os.sched_getaffinity(0))]
        boot = "hostname node$0; mount -t tmpfs tmpfs /dev/shm; ip link set lo up; echo up; exec sleep 1000000"
        # A host ends with the tests, also where these are killed.
        words = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
        words += ["--monotonic", str(100_000 * (number + 1))]
        self._holder = subprocess.Popen([*words, "sh", "-c", boot, str(number)], stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n"
        (self.init,) = children(self._holder.pid)
        self._commands: list[Command] = []
        self._inside = ThreadPoolExecutor(1, initializer=self._enter_net)

    def _enter_net(self) -> None:
        with open(f"/proc/{self.init}/ns/net") as file:
            assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) == 0

    def inside(self, function: Callable[[], T]) -> T:
        """Runs it with this host's network."""
        return self._inside.submit(function).result(300)

    def run(self, *words: str) -> str:
        """A command of the system in this host."""
        done = subprocess.run([*self.entered(), *words], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def weft(self, *words: str, **environ: str) -> Command:
        """Starts a weft command here."""
        return self.start("weft.cli.main", words, environ)

    def start(
        self,
        module: str,
        words: Sequence[str],
        environ: Mapping[str, str] = MappingProxyType({}),
        *,
        core: int | None = None,
        root: Path = ROOT,
    ) -> Command:
        """Starts a module of the code at `root` here; `core`: another than the host's."""
        core = self.core if core is None else core
        variables = {"TMPDIR": str(self.folder), "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1", **environ}
        process = subprocess.Popen(
            [*self.entered(), "taskset", "-c", str(core), sys.executable, "-m", module, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=root,
            env={**os.environ, **variables},
        )
        command = Command(process)
        self._commands.append(command)
        until(lambda: children(process.pid) or process.poll() is not None)
        return command

    def python(self, code: str) -> str:
        """What a program of Python prints here."""
        words = [*self.entered(), "taskset", "-c", str(self.core), sys.executable, "-c", code]
        environ = {**os.environ, "TMPDIR": str(self.folder), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=ROOT, env=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def entered(self) -> list[str]:
        """Words that run the command after them here."""
        return ["nsenter", "--target", str(self.init), "--net", "--pid", "--mount", "--uts", "--ipc", "--time", "--"]

    def processes(self) -> list[str]:
        """Command lines of all that runs here but the host itself. A process that has ended is none: the first process
        of a host does not reap."""
        listed = [line.split(None, 1) for line in self.run("ps", "-e", "-o", "stat=,args=").splitlines()]
        running = [args for state, args in listed if not state.startswith("Z")]
        return [args for args in running if not args.startswith(("sleep 1000000", "ps ", "nsenter "))]

    def cut(self) -> None:
        """The link is down: nothing that is sent arrives, without a word to any program."""
        self.run("ip", "link", "set", self.interface, "down")

    def drop(self) -> None:
        """Every frame to it and from it is dropped at the switch; its own link stays up."""
        assert self.switch is not None
        self.switch.run("ip", "link", "set", self.port, "nomaster")

    def mend(self) -> None:
        """After `cut` or `drop`."""
        assert self.switch is not None
        self.run("ip", "link", "set", self.interface, "up")
        self.switch.run("ip", "link", "set", self.port, "master", "bridge")

    @property
    def port(self) -> str:
        """Of the switch."""
        return f"port{self.number}"

    def die(self) -> None:
        """As without power: its link first, then all of its processes at once."""
        self.cut()
        os.kill(self.init, signal.SIGKILL)

    def close(self) -> None:
        if alive(self.init):
            os.kill(self.init, signal.SIGKILL)
        self._holder.wait(30)
        for command in self._commands:
            command.close()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        self._inside.shutdown()


@contextmanager
def hosts(folder: Path, count: int = 2) -> Iterator[list[Host]]:
    """Hosts on one switch, a host itself, so that the end of one leaves the links of the others up."""
    found: list[Host] = []
    switch = Host(90, folder)
    try:
        switch.run("ip", "link", "add", "bridge", "type", "bridge")
        switch.run("ip", "link", "set", "bridge", "up")
        for number in range(count):
            host = Host(number, folder)
            found.append(host)
            host.switch, port = switch, host.port
            subprocess.run(
                ["ip", "link", "add", port, "netns", str(switch.init), "type", "veth", "peer", "name", host.interface,
                 "netns", str(host.init)],
                check=True,
            )  # fmt: skip
            switch.run("ip", "link", "set", port, "master", "bridge", "up")
            host.run("ip", "address", "add", f"{host.address}/24", "dev", host.interface)
            host.run("ip", "link", "set", host.interface, "up")
        yield found
    finally:
        for host in found:
            host.close()
        switch.close()


def need_namespaces() -> None:
    """Skips where the system refuses them, and says so."""
    if reason := why_not():
        pytest.skip(f"hosts are namespaces, which this system refuses: {reason}")
