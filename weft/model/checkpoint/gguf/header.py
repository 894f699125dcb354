"""The header of a GGUF file: metadata and tensor records. weft/model/checkpoint/gguf/model.py gives them a meaning.

The `gguf` package's reader builds several arrays for each of a vocabulary's strings (1.6 s for 98,000 of them); this
one reads the same header in a few hundredths of a second. Layouts and names of number formats stay with the package.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from weft.base.fields import shown
from weft.base.printable import printable
from weft.model.checkpoint.files import FileFault, FileState, opened_file, pread
from weft.model.checkpoint.formats import TensorFormat
from weft.model.checkpoint.tensors import TensorInfo, overlaps, raise_all

MAGIC = b"GGUF"
VERSIONS = (2, 3)
FIRST_READ = 8 << 20
HEADER_LIMIT = 48 << 20
"""Most bytes of a header: three times those of the largest vocabularies."""
MOST_ITEMS = 1 << 22
"""Most items in the arrays of all keys together: a vocabulary of 256,000 with its merges takes a third."""
MOST_KEYS, MOST_TENSORS = 1 << 16, 1 << 20
ALIGNMENT = 32
MOST_ALIGNMENT = 1 << 20
MAX_DIMS = 8
MOST_NAME = 256
SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """metadata: key -> value (lists for arrays). tensors: under the file's own names, in the file's order. state: what
    the file was when it was read."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    state: FileState


class _ShortError(Exception):
    """The bytes read so far do not hold the whole header."""


class _InvalidError(Exception):
    """The header says something that no GGUF file may say."""


def read_gguf_header(path: Path) -> GgufHeader:
    """Header of the GGUF file at `path`; CheckpointError lists every fault in it and in the tensors' places."""
    try:
        with opened_file(path) as (fd, size):
            header, data_start = _read(fd, size)
            state = FileState.of(fd, header.data[: header.at])
    except (FileFault, FileNotFoundError, UnicodeDecodeError, _InvalidError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else error
        raise_all(str(path), [f"{path}: {what}"])
        raise
    tensors, problems = _place(str(path), header.rows, data_start, size)
    raise_all(str(path), problems)
    return GgufHeader(header.metadata, tuple(tensors), state)


def _read(fd: int, size: int) -> tuple[_Cursor, int]:
    """The parsed header, and where the tensors' data starts. Reads more of the file until the header is whole."""
    length = min(FIRST_READ, size)
    while True:
        cursor = _Cursor(pread(fd, length, 0), size)
        try:
            return cursor, cursor.parse()
        except (_ShortError, struct.error, OverflowError):  # a length beyond the data, or beyond any memory
            if length >= size:
                raise _InvalidError(f"truncated: the header is cut off at byte {size}") from None
            if length >= HEADER_LIMIT:
                raise _InvalidError(f"a header of more than {HEADER_LIMIT} bytes is not read") from None
            length = min(4 * length, size, HEADER_LIMIT)


@dataclass(slots=True)
class _Row:
    """A tensor record as the file has it: dims innermost first, offset from the start of the data."""

    name: str
    dims: tuple[int, ...]
    type: int
    offset: int


class _Cursor:
    """A position in the header's bytes; every read moves it, and raises _ShortError or struct.error at the end."""

    def __init__(self, data: bytes, size: int) -> None:
        """`data`: the first bytes of a file of `size` bytes."""
        self.data, self.size = data, size
        self.at = 0
        self.items = 0
        self.metadata: dict[str, Any] = {}
        self.rows: list[_Row] = []

    def parse(self) -> int:
        """Reads the whole header; returns where the tensors' data starts, in bytes."""
        self._preamble()
        tensors, keys = self._unpack("QQ")
        self._fits("tensors", tensors, MOST_TENSORS)
        self._fits("metadata keys", keys, MOST_KEYS)
        for _ in range(keys):
            key = self._string()
            if key in self.metadata:
                raise _InvalidError(f"metadata key {key} appears twice")
            self.metadata[key] = self._value(key, self._unpack("I")[0])
        for _ in range(tensors):
            self.rows.append(self._row())
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or not 1 <= alignment <= MOST_ALIGNMENT or alignment & (alignment - 1):
            raise _InvalidError(f"general.alignment {shown(alignment)}: legal: a power of two up to {MOST_ALIGNMENT}")
        return -(-self.at // alignment) * alignment

    def _preamble(self) -> None:
        magic = self.data[:4]
        if magic != MAGIC:
            raise _InvalidError(f"not a GGUF file: begins with {magic!r}")
        self.at = 4
        (version,) = self._unpack("I")
        if version and version & 0xFFFF == 0:
            raise _InvalidError("big-endian GGUF files are not supported")
        if version not in VERSIONS:
            raise _InvalidError(f"GGUF version {version} is not supported; supported: 2, 3")

    def _unpack(self, codes: str) -> tuple[Any, ...]:
        layout = struct.Struct("<" + codes)
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def _fits(self, what: str, count: int, most: int) -> None:
        """_InvalidError for more of something than the file has bytes, or than is read of it."""
        left = self.size - self.at
        if count > left:
            raise _InvalidError(f"truncated: {count} {what}, {left} bytes to the end of the file")
        if count > most:
            raise _InvalidError(f"{count} {what}; at most {most} are read")

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        self._fits("bytes of a string", length, HEADER_LIMIT)
        start, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise _ShortError
        return self.data[start : self.at].decode()

    def _strings(self, count: int) -> list[str]:
        """An array of strings: the one loop over a whole vocabulary, hence the local names."""
        data, at, found = self.data, self.at, list[bytes]()
        unpack, append = struct.Struct("<Q").unpack_from, found.append
        for _ in range(count):
            start = at + 8
            at = start + unpack(data, at)[0]
            append(data[start:at])
        if at > len(data):
            raise _ShortError
        self.at = at
        return [text.decode() for text in found]

    def _value(self, key: str, kind: int) -> Any:
        if kind == GGUFValueType.STRING:
            return self._string()
        if kind != GGUFValueType.ARRAY:
            return self._unpack(_scalar(key, kind))[0]
        item, count = self._unpack("IQ")
        # Arrays of arrays are refused here: no key that weft knows has one.
        code = "" if item == GGUFValueType.STRING else _scalar(key, item)
        self._fits(f"items of {printable(key, 80)}", count, MOST_ITEMS - self.items)
        self.items += count
        return list(self._unpack(f"{count}{code}")) if code else self._strings(count)

    def _row(self) -> _Row:
        name = self._string()
        (count,) = self._unpack("I")
        if len(name) > MOST_NAME:
            raise _InvalidError(f"a tensor's name of {len(name)} characters; legal: up to {MOST_NAME}")
        if not 1 <= count <= MAX_DIMS:
            raise _InvalidError(f"{name}: {count} dims; 1 to {MAX_DIMS} are legal")
        dims = self._unpack(f"{count}Q")
        kind, offset = self._unpack("IQ")
        return _Row(name, dims, kind, offset)


def _scalar(key: str, kind: int) -> str:
    try:
        return SCALARS[GGUFValueType(kind)]
    except (ValueError, KeyError):
        raise _InvalidError(f"metadata key {key}: value type {kind} is not supported") from None


def _place(path: str, rows: list[_Row], start: int, size: int) -> tuple[list[TensorInfo], list[str]]:
    """Tensor records with absolute places, and a line for each that cannot be where its record says."""
    tensors: dict[str, TensorInfo] = {}
    problems: list[str] = []
    for row in rows:
        found = _tensor(path, row, start)
        if isinstance(found, str):
            problems.append(f"{path}: {row.name}: {found}")
            continue
        if row.name in tensors:
            problems.append(f"{path}: {row.name}: appears twice")
        if found.end > size:
            problems.append(f"{path}: {row.name}: truncated: ends at byte {found.end}, the file has {size}")
        tensors[row.name] = found
    listed = list(tensors.values())
    return listed, problems + overlaps(listed)


def _tensor(path: str, row: _Row, start: int) -> TensorInfo | str:
    try:
        kind = GGMLQuantizationType(row.type)
    except ValueError:
        return f"unknown tensor type {row.type}"
    fmt = TensorFormat(kind.name, *GGML_QUANT_SIZES[kind])
    shape = row.dims[::-1]
    if min(shape) < 1:
        return f"shape {list(shape)}: a dim of 0"
    if shape[-1] % fmt.block:
        return f"rows of {shape[-1]} are not whole {fmt.name} blocks of {fmt.block}"
    return TensorInfo(row.name, shape, fmt.name, path, start + row.offset, fmt.tensor_bytes(shape), row.name)
