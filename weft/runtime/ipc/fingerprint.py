"""What must be the same for every rank before the first collective: code, versions, settings, checkpoint. No torch.

Each rank says what it has (`settings_here`), as words; `differences` compares them field by field.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from weft.base.errors import ConfigError
from weft.base.settings import EngineConfig
from weft.compute.native import isa, missing_reason
from weft.model.checkpoint import Checkpoint
from weft.model.checkpoint.safetensors.text_files import TEXT
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.serialize import flatten, to_dict
from weft.runtime.ipc.messages import Joined, Setup

OWN = ("engine.seed", "engine.max_model_len")
"""Settings that replicas may have of their own."""
_PACKAGE = Path(__file__).resolve().parents[2]
_SOURCES = {".py", ".h", ".cpp", ".toml", ".yaml"}


def settings_of_host(checkpoint: Checkpoint, layout: Layout, engine: EngineConfig, comm: str) -> dict[str, str]:
    """What must be the same on every host before any rank is started: as `settings_here`, with the settings as they
    were given."""
    settings = _of_host(checkpoint) | {"comm": comm}
    settings |= {f"engine.{name}": str(value) for name, value in asdict(common(engine)).items()}
    return settings | {f"layout.{name}": str(value) for name, value in flatten(to_dict(layout)).items()}


def common(engine: EngineConfig) -> EngineConfig:
    """What of it every host has alike: no path, no CPU, no name."""
    return replace(
        engine,
        threads=None,
        cpus=None,
        server_cpus=None,
        expert_placement=None,
        expert_stats=None,
        served_model_name=None,
    )


def joined(setup: Setup) -> Joined:
    """What a rank's process says first."""
    return Joined(setup.rank, setup.world.layout.world, os.getpid(), platform.node(), settings_here(setup))


def settings_here(setup: Setup) -> dict[str, str]:
    """Of this process: what its setup says, and what it finds on its machine."""
    checkpoint = Checkpoint.from_table(setup.checkpoint)
    settings = _of_host(checkpoint) | {
        "eos_token_ids": ", ".join(map(str, setup.world.eos_token_ids)),
        "comm": setup.world.comm,
    }
    if setup.world.staged_slots:  # experts are sent as they lie in memory, which differs between variants
        settings["C++ variant"] = "none" if missing_reason("step") else isa.chosen()
    settings |= {f"engine.{name}": str(value) for name, value in asdict(setup.world.engine).items()}
    return settings | {f"layout.{name}": str(value) for name, value in to_dict(setup.world.layout).items()}


def differences(
    where: Sequence[str], settings: Sequence[Mapping[str, str]], whose: str = "ranks"
) -> ConfigError | None:
    """The refusal that shows every field in which a rank differs from rank 0; None where all agree."""
    lines = []
    for rank in range(1, len(settings)):
        for name in sorted({*settings[0], *settings[rank]}):
            first, other = settings[0].get(name, "not there"), settings[rank].get(name, "not there")
            if first != other:
                lines.append(f"{name}: {where[0]} has {first}, {where[rank]} has {other}")
    if not lines:
        return None
    return ConfigError(
        "\n  ".join((f"{whose} do not have the same settings", *lines)), field=lines[0].partition(":")[0]
    )


class Settings:
    """What the first replica's ranks said. Those of others, and of later starts, must say the same, so that every
    replica gives the same tokens. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._where, self._first = "", dict[str, str]()

    def check(self, where: str, settings: Mapping[str, str]) -> ConfigError | None:
        """The refusal that shows every field in which the rank `where` differs; None where it agrees."""
        with self._lock:
            if not self._first:
                self._where, self._first = where, dict(settings)
            mine = {name: value for name, value in settings.items() if name not in OWN}
            first = {name: value for name, value in self._first.items() if name not in OWN}
        return differences((self._where, where), (first, mine))


def _of_host(checkpoint: Checkpoint) -> dict[str, str]:
    """What this machine has: code, versions, files."""
    return {
        "weft version": _version("weft"),
        "weft code": _code(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "machine": f"{platform.machine()} {sys.byteorder}",
        "C++ parts": "missing" if missing_reason("comm") else "there",
        "checkpoint": checkpoint.fingerprint()[:16],
        "checkpoint files": _files(checkpoint),
        "tokenizer files": _tokenizer(checkpoint),
    }


def _code() -> str:
    """A digest of weft's own source, its C++ parts and tables included."""
    digest = hashlib.sha256()
    for path in sorted(each for each in _PACKAGE.rglob("*") if each.suffix in _SOURCES):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _tokenizer(checkpoint: Checkpoint) -> str:
    """A digest of the tokenizer's own files; a GGUF file has its tokenizer within."""
    folder = Path(checkpoint.path)
    found = [folder / name for name in TEXT if (folder / name).is_file()]
    digest = hashlib.sha256()
    for file in found:
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16] if found else "none beside the weights"


def _files(checkpoint: Checkpoint) -> str:
    """Names and sizes of the files that this machine would read."""
    digest = hashlib.sha256()
    for file in sorted({tensor.file for tensor in checkpoint.tensors.values()}):
        try:
            size = os.stat(file).st_size
        except OSError as error:
            return f"{Path(file).name}: {error.strerror}"
        digest.update(f"{Path(file).name} {size}\n".encode())
    return digest.hexdigest()[:16]
