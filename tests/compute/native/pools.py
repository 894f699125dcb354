"""Pools of the step library as tests open them, with the functions of pool_probe.cpp."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from weft.compute.native import build, libraries

SPIN = 20_000
MANY = 12  # more threads than cores, and than threads that watch each other directly


def compiled(source: Path, folder: Path) -> ctypes.CDLL:
    """A test's functions beside headers of the step library, made in `folder`."""
    made = folder / f"{source.stem}.so"
    command = [*(build.find_compiler() or ()), *libraries.FLAGS, *libraries.includes(), str(source)]
    subprocess.run([*command, "-o", str(made)], check=True, timeout=300)
    return ctypes.CDLL(str(made))


def probe(folder: Path) -> ctypes.CDLL:
    """The library, made in `folder`."""
    opened, pointer, number = (
        compiled(Path(__file__).parent / "runtime" / "pool_probe.cpp", folder),
        ctypes.c_void_p,
        ctypes.c_int,
    )
    signatures = {
        "weft_pool_new": (pointer, [number, pointer, ctypes.c_int64, pointer]),
        "weft_pool_free": (None, [pointer]),
        "weft_pool_stealing": (None, [pointer, number]),
        "weft_pool_yield_core": (None, [pointer, number]),
        "weft_pool_spin": (None, [pointer, ctypes.c_int64]),
        "probe_turns": (ctypes.c_int64, [pointer, pointer, number]),
        "probe_late": (ctypes.c_int64, [pointer, *[ctypes.c_int64] * 3, pointer, pointer, ctypes.c_int]),
        "probe_cores": (None, [pointer, pointer]),
        "probe_shares": (ctypes.c_int64, [pointer, pointer, pointer, number, number]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(opened, name)
        function.restype, function.argtypes = result, arguments
    return opened


def new(library: ctypes.CDLL, threads: int, spin: int, cores: list[int] | None = None) -> int:
    error = ctypes.c_int32(-1)
    given = (ctypes.c_int32 * threads)(*cores) if cores else None
    handle = library.weft_pool_new(threads, given, spin, ctypes.byref(error))
    if error.value:
        assert not handle
        raise OSError(error.value, "pool")
    return int(handle)


def tasks() -> set[str]:
    """Ids of this process's threads, also of one that has just ended: the system shows it a moment longer."""
    return set(os.listdir("/proc/self/task"))


def wait_for_threads(before: set[str]) -> None:
    """Until there is none but those; the suite limits a wait for one that stays."""
    while not tasks() <= before:
        os.sched_yield()
