"""What a measurement must say about itself: the machine, the versions, the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("weft", "torch", "numpy", "tokenizers", "starlette", "uvicorn", "httpx", "msgspec")
SECRET = ("--api-key",)


def machine() -> dict[str, object]:
    """Processor, cores that may be used, memory, accelerators, system."""
    return {
        "cpu": processor(_read("/proc/cpuinfo")) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(_first(r"^MemTotal:\s*(\d+)", _read("/proc/meminfo")) or 0) * 1024,
        "accelerators": _accelerators(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def processor(info: str) -> str | None:
    """The name in `info`, the text of /proc/cpuinfo, with family and model where they stand there: a virtual machine's
    name for its processor often leaves the generation open. None: no name."""
    name = _first(r"^(?:model name|Hardware|CPU part)\s*:\s*(.+)$", info)
    family, model = (_first(rf"^{key}\s*:\s*(\d+)$", info) for key in ("cpu family", "model"))
    return f"{name} (family {family}, model {model})" if name and family and model else name


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that matter; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def commit(folder: Path, *leaving_out: str) -> dict[str, object] | None:
    """The commit of the working copy that `folder` stands in, and whether files differ from it, those that git knows by
    the patterns `leaving_out` aside; None: no git there."""
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return None
    others = [f":(top,exclude){pattern}" for pattern in leaving_out]
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", *others)
    return {"commit": head, "changed": bool(changed)}


def shown_command(words: Sequence[str]) -> list[str]:
    """A command line without its secrets."""
    shown, hide = [], False
    for word in words:
        name = word.partition("=")[0]
        secret = name in SECRET
        shown.append("***" if hide else f"{name}=***" if secret and "=" in word else word)
        hide = secret and "=" not in word
    return shown


def _accelerators() -> list[str]:
    return sorted(
        _first(r"^Model:\s*(.+)$", _read(str(path))) or "NVIDIA GPU"
        for path in Path("/proc/driver/nvidia/gpus").glob("*/information")
    )


def _git(folder: Path, *words: str) -> str | None:
    environment: Mapping[str, str] = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1].strip() if match else None
