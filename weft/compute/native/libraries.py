"""Which file holds a C++ library built for this source and this CPU, and loading it. Compiles nothing.

A library's file is <name>-<cpu>-<source>-<compiler>.so: hashes of the CPU's feature flags, of the sources with the
compile flags, and of the compiler. The first two must fit for a file to be loaded, so neither a stale binary nor one
made on another machine ever is; the third lets a build after a change of compiler replace what an older one made.

The libraries of `VARIED` are built once for each instruction set of `isa.py`: <name>-<isa>-<machine>-..., and `load`
takes the best that this CPU runs.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from weft.base.errors import ConfigError
from weft.compute.native import isa

SOURCES = Path(__file__).parent
FLAGS: tuple[str, ...] = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-march=native",
    "-pthread",
    "-Wall",
    "-Wextra",
)
"""Hidden: else the loader would unite what inline functions keep, also of two variants of one library."""
VARIED = ("step",)


def disabled() -> bool:
    """True where WEFT_NATIVE=0 asks for the plain paths. ConfigError: another value than 0 or 1."""
    value = os.environ.get("WEFT_NATIVE") or "1"
    if value not in ("0", "1"):
        raise ConfigError(f"WEFT_NATIVE {value}: legal: 0, 1", field="WEFT_NATIVE", value=value, legal=("0", "1"))
    return value == "0"


def names() -> tuple[str, ...]:
    """Every library there is a source for; <name>-<isa> for those with variants."""
    sources = sorted(path.stem for path in SOURCES.glob("*.cpp"))
    return tuple(name for source in sources for name in _built_as(source))


def needed() -> tuple[str, ...]:
    """Those that a process here loads: of each source one."""
    return tuple(chosen(path.stem) for path in sorted(SOURCES.glob("*.cpp")))


def source_of(name: str) -> Path:
    """The file that library `name` is compiled from."""
    return SOURCES / f"{name.partition('-')[0]}.cpp"


def flags(name: str) -> tuple[str, ...]:
    """The compiler's flags for library `name`."""
    source, _, variant = name.partition("-")
    if source not in VARIED:
        return FLAGS
    # Without contraction, a formula's bits do not depend on what the compiler made of the code around it. What -O3 adds
    # to kernels that are vectors already is half of the compiler's time; its warning is wrong about its own intrinsics.
    common = (flag for flag in FLAGS if flag not in ("-march=native", "-O3"))
    return (*common, "-O2", *isa.FLAGS[variant], "-ffp-contract=off", "-Wno-maybe-uninitialized")


def includes() -> tuple[str, ...]:
    """What lets headers name each other by their path below the sources; not a part of the hash, for it is a place."""
    return (f"-I{SOURCES}",)


def chosen(name: str) -> str:
    """`name`, or the variant of it that this process runs; WeftError where WEFT_NATIVE_ISA asks for what cannot be."""
    return f"{name}-{isa.chosen()}" if name in VARIED else name


def _built_as(source: str) -> tuple[str, ...]:
    return tuple(f"{source}-{variant}" for variant in isa.buildable()) if source in VARIED else (source,)


def directories() -> tuple[Path, ...]:
    """Where libraries may lie, first choice first: beside the sources, else (installed read-only) the user's cache."""
    cache = Path(os.environ.get("WEFT_CACHE") or Path.home() / ".cache" / "weft")
    return SOURCES / "_build", cache / "native"


def stem(name: str) -> str:
    """<name>-<cpu>-<source>: what a loadable file's name starts with."""
    cpu = platform.machine() if name.partition("-")[0] in VARIED else _cpu_hash()
    return f"{name}-{cpu}-{_source_hash(name)}"


def find(name: str) -> Path | None:
    """The newest file built from today's source for this CPU, or None."""
    for directory in directories():
        built = sorted(directory.glob(f"{stem(name)}-*.so"), key=lambda path: path.stat().st_mtime)
        if built:
            return built[-1]
    return None


def load(name: str) -> ctypes.CDLL | None:
    """The library, or None where there is none that fits; `missing_reason` then says why. Never compiles."""
    name = chosen(name)
    path = None if disabled() or name not in names() else find(name)
    if path is None:
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def missing_reason(name: str) -> str:
    """Why `load(name)` gives None, for a person; empty where it gives a library."""
    if disabled():
        return "native code is switched off by WEFT_NATIVE=0"
    name = chosen(name)
    if name not in names():
        return f"there is no native library {name!r}; there are: {', '.join(names())}"
    path = find(name)
    if path is None:
        return _recorded_failure(name) or "not built; run: python -m weft.compute.native.build"
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return f"cannot be loaded: {error}"
    return ""


def kernels() -> str | None:
    """The variant of library `step` that this process loads; None where there is none."""
    return None if missing_reason("step") else isa.chosen()


def failure_file(directory: Path, name: str) -> Path:
    """Where the build leaves its reason, so that a process that only loads can repeat it."""
    return directory / f"{stem(name)}.failed"


def _recorded_failure(name: str) -> str:
    for directory in directories():
        try:
            return failure_file(directory, name).read_text()
        except OSError:
            continue
    return ""


def _source_hash(name: str) -> str:
    files = (source_of(name), *sorted(_headers()))
    return _digest(flags(name), SOURCES, tuple((path, path.stat().st_mtime_ns) for path in files))


def _headers() -> Iterator[Path]:
    """The headers of every folder below the sources; any library may include any of them."""
    for folder, inner, files in os.walk(SOURCES):
        if folder == str(SOURCES) and "_build" in inner:
            inner.remove("_build")
        yield from (Path(folder, file) for file in files if file.endswith(".h"))


@lru_cache(maxsize=16)
def _digest(flags: tuple[str, ...], root: Path, files: tuple[tuple[Path, int], ...]) -> str:
    """The hash of the flags and of each file's path below `root` and content. `files`: paths and times of last change,
    so that a process reads unchanged files only once."""
    digest = hashlib.sha256(" ".join(flags).encode())
    for path, _ in files:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _cpu_hash() -> str:
    """Machine and feature flags: what -march=native reads, as far as it decides whether a binary may run."""
    lines = {platform.machine()}
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            for line in cpuinfo:
                if not line.strip():
                    break  # one processor speaks for all
                if line.startswith(("flags", "Features", "vendor_id", "cpu family", "model\t", "CPU part")):
                    lines.add(" ".join(line.split()))
    except OSError:
        lines.add(platform.processor())
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:8]
