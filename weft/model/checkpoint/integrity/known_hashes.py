"""Known hashes of a model's files: from SHA256SUMS in their directory, a hub's cache, or the embedded model's record.
Reads no weights and computes no hash.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from weft.model.checkpoint.checkpoint import Checkpoint
from weft.model.checkpoint.directory import CONFIG, INDEX, SINGLE, TEXT
from weft.model.checkpoint.files import CONFIG_LIMIT, FileFault, read_bytes, read_text
from weft.model.checkpoint.hub.embedded import SMOLLM2, cache_dir

MANIFEST = "SHA256SUMS"
DOWNLOADS = Path(".cache", "huggingface", "download")
"""Where huggingface_hub notes, inside a directory that it downloaded into, what each file was."""
_HEX = "[0-9a-fA-F]{64}"
_LINE = re.compile(rf"(?P<digest>{_HEX}) [ *](?P<name>.+)|SHA256 \((?P<tagged>.+)\) = (?P<value>{_HEX})")

HashKind = Literal["sha256", "git-sha1"]
_KINDS: dict[int, HashKind] = {64: "sha256", 40: "git-sha1"}
"""A hub's etag by its length: large files go by their SHA-256, others as git names a blob."""


@dataclass(frozen=True, slots=True)
class KnownHash:
    """The expected hash of `path`. `source`: where it comes from; `remedy`: what to do on a mismatch."""

    path: Path
    kind: HashKind
    digest: str
    source: str
    remedy: str = ""


@dataclass(slots=True)
class KnownHashes:
    """All known hashes. `problems`: errors that forbid serving; `notes`: messages for the user."""

    known: list[KnownHash] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """The files that hold tensors."""
    return sorted({Path(tensor.file) for tensor in checkpoint.tensors.values()})


def files_read(checkpoint: Checkpoint) -> list[Path]:
    """Every file that something of the model is read from."""
    weights, place = weight_files(checkpoint), Path(checkpoint.path)
    if checkpoint.kind == "gguf":
        return [*map(Path, checkpoint.states)] or [place]
    names = (*CONFIG, *TEXT) if (place / SINGLE).is_file() else (*CONFIG, *TEXT, INDEX)
    return [*(place / name for name in names if (place / name).is_file()), *weights]


def known_hashes(checkpoint: Checkpoint) -> KnownHashes:
    """Of the files that are read; a file without a known hash has no entry."""
    found, files = KnownHashes(), files_read(checkpoint)
    folder = Path(checkpoint.path) if checkpoint.kind == "safetensors" else Path(checkpoint.path).parent
    _from_manifest(folder, files, found, whole=checkpoint.kind == "safetensors")
    for file in files:
        _from_hub_cache(file, found)
        _from_download(file, found)
        if file == cache_dir().absolute() / SMOLLM2.name:
            remedy = f"delete {file} to have it fetched again"
            found.known.append(KnownHash(file, "sha256", SMOLLM2.sha256, "the embedded model", remedy))
    return found


def _from_manifest(folder: Path, files: list[Path], found: KnownHashes, *, whole: bool) -> None:
    """`whole`: a file that is named and would be read, but is missing, is a problem."""
    manifest = folder / MANIFEST
    try:
        lines = read_bytes(manifest, CONFIG_LIMIT).decode("utf-8", "surrogateescape").splitlines()
    except FileNotFoundError:
        return
    except FileFault as fault:
        found.problems.append(f"{manifest}: {fault}")
        return
    wanted = _parsed(manifest, lines, found.problems)
    named = [file for file in files if file.name in wanted]
    found.known += [KnownHash(file, "sha256", wanted[file.name], MANIFEST) for file in named]
    missing = [
        name for name in sorted(wanted) if whole and not (folder / name).exists() and _would_be_read(folder, name)
    ]
    found.problems += [f"{folder / name}: no such file; {MANIFEST} names it" for name in missing]
    if not named and not missing:
        found.notes.append(f"{manifest} names none of the files that are read")


def _parsed(manifest: Path, lines: list[str], problems: list[str]) -> dict[str, str]:
    """Digests by name, of files that lie beside the manifest. Escaped names (with a newline in them) are skipped."""
    wanted: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            if line.strip() and not line.startswith(("#", "\\")):
                problems.append(f"{manifest}: line {number} is none of sha256sum's: <64 hex digits>  <name>")
            continue
        digest, path = (match["digest"] or match["value"]).lower(), Path(match["name"] or match["tagged"])
        if path.parent not in (Path(), manifest.parent):
            continue
        if wanted.setdefault(path.name, digest) != digest:
            problems.append(f"{manifest}: line {number} gives {path.name} another hash than a line before it")
    return wanted


def _would_be_read(folder: Path, name: str) -> bool:
    """Whether a directory that had this file would be read from it."""
    if name in (*CONFIG, *TEXT, SINGLE):
        return True
    if (folder / SINGLE).is_file():
        return False
    return name == INDEX or (name.endswith(".safetensors") and not (folder / INDEX).is_file())


def _from_hub_cache(file: Path, found: KnownHashes) -> None:
    """In a hub's cache a file is a link to a blob that is named by its hash."""
    if file.is_symlink() and (blob := file.resolve()).parent.name == "blobs" and (kind := _kind(blob.name)):
        remedy = f"delete {blob} to have it fetched again"
        found.known.append(KnownHash(file, kind, blob.name, "the hub", remedy))


def _from_download(file: Path, found: KnownHashes) -> None:
    """As in huggingface_hub, the metadata of a file is valid until the file is written again."""
    try:
        lines = read_text(file.parent / DOWNLOADS / f"{file.name}.metadata").splitlines()
        etag, noted_s = lines[1].strip(), float(lines[2])
    except (OSError, FileFault, ValueError, IndexError):
        return  # no metadata, or not readable
    if (kind := _kind(etag)) is None:
        return
    if os.stat(file).st_mtime - 1 > noted_s:
        found.notes.append(f"{file}: changed after its download, so its hash is not compared with the hub's")
        return
    remedy = f"delete {file} and download it again"
    found.known.append(KnownHash(file, kind, etag, "the hub", remedy))


def _kind(etag: str) -> HashKind | None:
    return _KINDS.get(len(etag)) if re.fullmatch(r"[0-9a-f]+", etag) else None
