"""Digests of files, computed once and cached until a file's size, times or inode change.

The cache holds the digests that were computed, never whether they were correct.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from weft.model.checkpoint.integrity.known_hashes import HashKind

_ALGORITHM: Mapping[HashKind, str] = {"sha256": "sha256", "git-sha1": "sha1"}
CHUNK = 4 << 20
SETTLED_NS = 100_000_000
"""A file that changed so recently could change again within the same clock tick; its digests are not cached."""


class HashingStopped(Exception):
    """Hashing was stopped before the end of the file."""


class CachedDigests(msgspec.Struct, frozen=True):
    """The state of a file (size, times, inode) and its digests in that state."""

    state: tuple[int, int, int, int]
    digests: dict[HashKind, str]


def remembered(file: Path, folder: Path) -> Mapping[HashKind, str]:
    """Digests of the file as it is now, from the cache in `folder`; empty where there are none."""
    try:
        entry = msgspec.json.decode(_place(file, folder).read_bytes(), type=CachedDigests)
        unchanged = entry.state == _state(os.stat(file))
    except (OSError, ValueError):  # missing or unreadable: it is written again
        return {}
    return entry.digests if unchanged else {}


def computed(file: Path, kinds: Collection[HashKind], folder: Path, stop: threading.Event) -> dict[HashKind, str]:
    """Reads the file once, computes its digests and stores them in `folder`.

    OSError: the file cannot be read. HashingStopped: `stop` was set.
    """
    with file.open("rb", buffering=0) as source:
        before = os.fstat(source.fileno())
        digests = {kind: hashlib.new(_ALGORITHM[kind], usedforsecurity=False) for kind in kinds}
        if "git-sha1" in digests:
            digests["git-sha1"].update(b"blob %d\0" % before.st_size)
        began_ns, buffer = time.time_ns(), memoryview(bytearray(CHUNK))
        while count := source.readinto(buffer):
            if stop.is_set():
                raise HashingStopped
            for digest in digests.values():
                digest.update(buffer[:count])
        after = os.fstat(source.fileno())
    found = {kind: digest.hexdigest() for kind, digest in digests.items()}
    if _state(before) == _state(after) and began_ns - after.st_ctime_ns > SETTLED_NS:
        with suppress(OSError):  # a cache that cannot be written costs the next start its time, nothing else
            _remember(file, CachedDigests(_state(after), found), folder)
    return found


def _remember(file: Path, entry: CachedDigests, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = tempfile.NamedTemporaryFile(dir=folder, delete=False)
    try:
        with target:
            target.write(msgspec.json.encode(entry))
        os.replace(target.name, _place(file, folder))
    except OSError:
        os.unlink(target.name)
        raise


def _place(file: Path, folder: Path) -> Path:
    return folder / (hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:32] + ".json")


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
