"""Files of a model as they are opened: regular files only, with a limit on what is read of each, and JSON in them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from weft.base.plural import size as shown_size

T = TypeVar("T")
MIB = 1 << 20
CONFIG_LIMIT = 4 * MIB
"""Most bytes of config.json, generation_config.json, tokenizer_config.json and a chat template."""
INDEX_LIMIT = 24 * MIB
"""The same of an index; the index of DeepSeek-V3, with 91,000 tensors, has 9 MiB."""
TOKENIZER_LIMIT = 64 * MIB
POINTER = b"version https://git-lfs.github.com/spec/"
"""How a Git LFS pointer begins, which stands for a file that was not downloaded."""
POINTER_REMEDY = "a Git LFS pointer, not the file itself: run `git lfs pull` in its directory, or download it"
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class FileFault(Exception):
    """A file that cannot be what it should be; the message says what, without the file's name."""


class FileState(msgspec.Struct, frozen=True):
    """What a file with weights was when it was checked. header: SHA-256 of the first `header_bytes` bytes."""

    size: int
    mtime_ns: int
    header_bytes: int
    header: str

    @classmethod
    def of(cls, fd: int, header: bytes) -> FileState:
        """Of an open file that begins with `header`."""
        found = os.fstat(fd)
        return cls(found.st_size, found.st_mtime_ns, len(header), hashlib.sha256(header).hexdigest())

    def change(self, fd: int) -> str:
        """What of an open file differs from this; empty: nothing."""
        found = os.fstat(fd)
        if found.st_size != self.size:
            return f"{found.st_size} bytes, {self.size} when it was checked"
        if found.st_mtime_ns != self.mtime_ns:
            return "written since it was checked"
        header = os.pread(fd, self.header_bytes, 0)
        return "" if hashlib.sha256(header).hexdigest() == self.header else "another header than when it was checked"


@contextmanager
def opened_file(path: Path) -> Iterator[tuple[int, int]]:
    """Descriptor and size of the regular file at `path`, never waiting for a FIFO's writer. FileFault: it is none, or a
    pointer to one; FileNotFoundError: it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileFault(error.strerror or str(error)) from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            kind = next((name for is_kind, name in KINDS if is_kind(found.st_mode)), "no file")
            raise FileFault(f"{kind}; a regular file is needed")
        if os.pread(fd, len(POINTER), 0) == POINTER:
            raise FileFault(POINTER_REMEDY)
        yield fd, found.st_size
    except OSError as error:
        raise FileFault(error.strerror or str(error)) from None
    finally:
        os.close(fd)


def read_bytes(path: Path, limit: int) -> bytes:
    """All of a file of at most `limit` bytes. FileFault, FileNotFoundError."""
    with opened_file(path) as (fd, size):
        if size > limit:
            raise FileFault(f"{shown_size(size)}; at most {shown_size(limit)} are read of such a file")
        return pread(fd, size, 0)


def pread(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes from `offset`; fewer where the file ends before."""
    parts: list[bytes] = []
    while length and (part := os.pread(fd, length, offset)):
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)


def read_text(path: Path, limit: int = CONFIG_LIMIT) -> str:
    """A UTF-8 file. FileFault, FileNotFoundError."""
    try:
        return read_bytes(path, limit).decode()
    except UnicodeDecodeError as error:
        raise FileFault(f"not UTF-8 text: byte {error.start}") from None


def _number(digits: str) -> int | float:
    """Whole numbers beyond 64 bits become floats: transformers writes 10^30 for a tokenizer without a limit."""
    if len(digits) > 400:
        return math.inf
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else float(value)


def read_object(path: Path, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """The JSON object in a file. Numbers may be NaN or infinite, as Python writes them. FileFault,
    FileNotFoundError."""
    text = read_text(path, limit)
    try:
        value = json.loads(text, parse_int=_number)
        msgspec.msgpack.encode(value)  # as it goes to other processes
    except RecursionError:
        raise FileFault("not JSON that can be read: nested too deeply") from None
    except UnicodeEncodeError:
        raise FileFault("a string has half a surrogate pair, which is no character") from None
    except ValueError as error:
        raise FileFault(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise FileFault("a JSON object is needed")
    return value


def decode_json(data: bytes, kind: type[T], what: str) -> T:
    """JSON of one `kind`, refused before anything else is built of it. `what`: how messages call it. FileFault."""
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise FileFault(f"{what} is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FileFault(f"{what} is not as it should be: {error}") from None
