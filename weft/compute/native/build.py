"""Compiles the C++ libraries: `python -m weft.compute.native.build`.

What is up to date is left alone. A file appears under its name only when it is whole, so builds may run side by side
and beside loading processes.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from weft.base.errors import ConfigError
from weft.compute.native.libraries import (
    directories,
    disabled,
    failure_file,
    find,
    flags,
    includes,
    names,
    needed,
    source_of,
    stem,
)

MOST_SECONDS = 300
"""That the compiler may take for a library."""


@dataclass(frozen=True, slots=True)
class BuildStatus:
    """`state`: built, current (nothing to do), failed or disabled; `reason` says why where there is no library."""

    name: str
    state: str
    path: Path | None
    seconds: float = 0.0
    reason: str = ""


Report = Callable[[str], object]
"""What hears a sentence for people."""


def ensure_built(wanted: Sequence[str] | None = None, say: Report = lambda said: None) -> tuple[BuildStatus, ...]:
    """Builds what is missing or stale of what this machine loads, or of the `wanted`, as many at a time as there are
    cores; `say`, in any thread, hears of each that begins. Raises nothing."""
    chosen = needed() if wanted is None else tuple(wanted)
    if disabled():
        return tuple(BuildStatus(name, "disabled", None, reason="WEFT_NATIVE=0") for name in chosen)
    compiler = find_compiler()
    if compiler is None:
        return tuple(_without_compiler(name) for name in chosen)
    version = _version_hash(compiler)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as workers:
        return tuple(workers.map(lambda name: _ensure(name, compiler, version, say), chosen))


def find_compiler() -> tuple[str, ...] | None:
    """The command of $CXX, or the first of g++, c++, clang++ that is installed; None where there is none."""
    given = os.environ.get("CXX")
    for candidate in (given,) if given else ("g++", "c++", "clang++"):
        words = shlex.split(candidate)
        if words and shutil.which(words[0]):
            return tuple(words)
    return None


def _without_compiler(name: str) -> BuildStatus:
    path = find(name)
    if path is not None:
        return BuildStatus(name, "current", path)
    given = os.environ.get("CXX")
    what = f"CXX={given} is not there" if given else "none of g++, c++, clang++ is installed"
    return _failed(name, _writable_directory(), f"no C++ compiler: {what}", 0.0)


def _version_hash(compiler: Sequence[str]) -> str:
    try:
        said = subprocess.run([*compiler, "--version"], capture_output=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = b""
    return hashlib.sha256(" ".join(compiler).encode() + b"\0" + said).hexdigest()[:8]


def _ensure(name: str, compiler: Sequence[str], version: str, say: Report) -> BuildStatus:
    if name not in names():
        return BuildStatus(name, "failed", None, reason=f"there is no source {source_of(name).name}")
    for directory in directories():
        path = directory / f"{stem(name)}-{version}.so"
        if path.exists():
            return BuildStatus(name, "current", path)
    say(f"compiling {name} for this CPU, once: up to a minute")
    return _compile(name, compiler, version)


def run_group(command: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process group of its own. TimeoutExpired: the whole group is ended, since a compiler's driver
    leaves what it has started running."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, said = process.communicate(timeout=limit_s)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, said)


def _compile(name: str, compiler: Sequence[str], version: str) -> BuildStatus:
    """One library: compiled to a temporary name, then renamed; older builds for this CPU make room."""
    started = time.monotonic()
    directory = _writable_directory()
    if directory is None:
        tried = ", ".join(str(path) for path in directories())
        return _failed(name, None, f"no directory to build in can be written: {tried}", 0.0)
    try:
        return _compiled(name, compiler, directory, f"{stem(name)}-{version}.so")
    except OSError as error:  # as of a full disk: weft runs without the library, and says why
        return _failed(name, directory, f"{directory}: {error.strerror}", time.monotonic() - started)


def _compiled(name: str, compiler: Sequence[str], directory: Path, file: str) -> BuildStatus:
    started, target = time.monotonic(), directory / file
    with tempfile.TemporaryDirectory(prefix=".building-", dir=directory) as scratch:
        made = Path(scratch) / target.name
        command = [*compiler, *flags(name), *includes(), str(source_of(name)), "-o", str(made)]
        try:
            result = run_group(command, MOST_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            return _failed(name, directory, f"{compiler[0]}: {error}", time.monotonic() - started)
        if result.returncode < 0:  # by a signal, so that nothing is known of the next attempt
            return _failed(
                name, None, f"{compiler[0]} was ended by signal {-result.returncode}", time.monotonic() - started
            )
        if result.returncode != 0:
            return _failed(name, directory, _first_error(compiler[0], result.stderr), time.monotonic() - started)
        _remove_older(directory, name)
        os.replace(made, target)
    return BuildStatus(name, "built", target, time.monotonic() - started)


def _failed(name: str, directory: Path | None, reason: str, seconds: float) -> BuildStatus:
    if directory is not None:
        with suppress(OSError):  # this process has the reason; without the file others say only that it was not built
            failure_file(directory, name).write_text(reason)
    return BuildStatus(name, "failed", None, seconds, reason)


def _first_error(compiler: str, output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    first = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
    return f"{compiler} failed: {first}"


def _remove_older(directory: Path, name: str) -> None:
    """Other CPUs' files stay: the directory may be shared between machines."""
    same_cpu = stem(name).rsplit("-", 1)[0]  # without the hash of the sources
    for path in directory.glob(f"{same_cpu}-*"):
        path.unlink(missing_ok=True)


def _writable_directory() -> Path | None:
    for directory in directories():
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK | os.X_OK):
            return directory
    return None


def report(statuses: Sequence[BuildStatus], *, quiet: bool = False) -> int:
    """Says what became of each, or, if `quiet`, only what was not there already. Gives an exit status: 1 where one
    failed (the plain paths then serve), else 0."""
    for one in statuses:
        detail = one.reason or f"{one.path.name if one.path else ''} ({one.seconds:.1f} s)"
        if not quiet or one.state != "current":
            sys.stdout.write(f"native {one.name}: {one.state}: {detail}\n")
    return 1 if any(one.state == "failed" for one in statuses) else 0


def main() -> int:
    """Builds what this machine loads (`--all`: for every instruction set), and reports it (`--quiet`: what is new)."""
    words = sys.argv[1:]
    return report(ensure_built(names() if "--all" in words else None), quiet="--quiet" in words)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
