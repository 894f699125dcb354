"""Sets up each peer under the cache: an environment of its own with every version pinned, or tools built from source.

Nothing of it is ever imported by weft. pip runs with the caller's settings. A finished peer carries a stamp with what
it was made from, and is made again only when that changes.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.places import HERE, Places
from weft.base.errors import WeftError

SOURCES = "vendor/llama.cpp"
TOOLS = ("llama-bench", "llama-batched-bench", "llama-server", "llama-quantize")
CMAKE = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_WEBUI=OFF",
    # On a CPU with AMX its kernels for 8-bit and 4-bit weights end with a segmentation fault in prompts.
    *(f"-DCMAKE_{language}_FLAGS=-mno-amx-int8" for language in ("C", "CXX") if platform.machine() == "x86_64"),
)


class NotInstalled(WeftError):
    """A peer that could not be set up; the others can."""


def install(peer: str, places: Places) -> None:
    """Does nothing where the peer is complete. NotInstalled: which command failed, and where its output is."""
    pins = HERE / "constraints" / f"{peer}.txt"
    folder, stamp = places.peer(peer), places.peer(peer) / "complete"
    wanted = pins.read_text() + " ".join(CMAKE) * (peer == "llamacpp")
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"setting up {peer} (once; log: {folder / 'install.log'})", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "install.log").unlink(missing_ok=True)
    if peer == "llamacpp":
        _build(pins, places)
    else:
        _venv(pins, folder)
    if peer == "vllm":
        _tcmalloc(folder)
    stamp.write_text(wanted)


def run(command: Sequence[str | Path], folder: Path, log: str = "install.log") -> None:
    """NotInstalled where the command fails; its output goes to the log."""
    path = folder / log
    with path.open("a") as out:
        out.write(f"$ {' '.join(map(str, command))}\n")
        out.flush()
        try:
            done = subprocess.run(
                ["nice", *map(str, command)], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        except OSError as error:
            raise NotInstalled(f"{command[0]}: {error}") from None
    if done.returncode:
        raise NotInstalled(f"{Path(command[0]).name} ended with exit code {done.returncode}: see {path}")


def _venv(pins: Path, folder: Path) -> None:
    """torch before the rest, so that nothing asks for another build of it."""
    run([sys.executable, "-m", "venv", "--clear", folder / "venv"], folder)
    python, quietly = folder / "venv" / "bin" / "python", ("install", "--quiet", "--no-deps")
    torch = next(line for line in pins.read_text().splitlines() if line.startswith("torch=="))
    run([python, "-m", "pip", *quietly, torch], folder)
    run([python, "-m", "pip", *quietly, "-r", pins], folder)


def _tcmalloc(folder: Path) -> None:
    """The allocator that vllm asks for, unpacked beside its environment; installs nothing in the system."""
    place = folder / "tcmalloc"
    place.mkdir(exist_ok=True)
    try:
        run(["apt-get", "download", "libtcmalloc-minimal4"], folder)
        run(["dpkg-deb", "-x", next(folder.glob("libtcmalloc-minimal4_*.deb")), place], folder)
    except NotInstalled as error:
        print(f"vllm runs without tcmalloc, which costs it some speed: {error}", file=sys.stderr)


def _build(pins: Path, places: Places) -> None:
    folder = places.peer("llamacpp")
    package = next(line for line in pins.read_text().splitlines() if not line.startswith("#"))
    name, _, version = package.partition("==")
    download = ("download", "--quiet", "--no-deps", "--no-binary", name, "-d", folder)
    run([sys.executable, "-m", "pip", *download, package], folder)
    with tarfile.open(next(folder.glob(f"*{version}.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    source = sources(places)
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(["cmake", "-S", source, "-B", folder / "build", *generator, *CMAKE], folder)
    run(["cmake", "--build", folder / "build", "-j", "2", "--target", *TOOLS], folder)
    (places.programs / "VERSION").write_text(f"of llama-cpp-python {version}\n")


def sources(places: Places) -> Path:
    """llama.cpp's own source folder. NotInstalled where there is none."""
    found = sorted(places.peer("llamacpp").glob(f"llama_cpp_python-*/{SOURCES}"))
    if not found:
        raise NotInstalled("llama.cpp's sources are not there")
    return found[-1]
