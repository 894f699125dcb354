"""The header of a safetensors file as tensor records, with every fault in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from weft.model.checkpoint.files import MIB, FileFault, FileState, decode_json, opened_file, pread
from weft.model.checkpoint.tensors import TensorInfo, overlaps

MAX_HEADER_BYTES = 32 * MIB
"""A tenth of it names 30,000 tensors; the format itself allows 100 MB."""
MOST_DIMS = 8
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one element of each of safetensors' dtypes."""


@dataclass(slots=True)
class SafetensorsHeader:
    """Tensors of one file; a line for every fault found in header or length; what the file was when it was read."""

    tensors: list[TensorInfo] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    state: FileState | None = None


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_header(path: Path) -> SafetensorsHeader:
    """The header of the file at `path`."""
    try:
        with opened_file(path) as (fd, size):
            head = pread(fd, 8, 0)
            length = int.from_bytes(head, "little")
            if size < 8 or length > size - 8:
                raise FileFault(f"truncated: {size} bytes, its header alone says {8 + length}")
            if length > MAX_HEADER_BYTES:
                raise FileFault(f"a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
            text = pread(fd, length, 8)
            state = FileState.of(fd, head + text)
        entries = decode_json(text, dict[str, msgspec.Raw], "its header")
        entries.pop("__metadata__", None)
    except FileFault as fault:
        return SafetensorsHeader(problems=[f"{path}: {fault}"])
    except FileNotFoundError:
        return SafetensorsHeader(problems=[f"{path}: no such file"])
    tensors, problems = _check(path, entries, 8 + length, size)
    return SafetensorsHeader(tensors, problems, state)


def _check(path: Path, entries: dict[str, msgspec.Raw], start: int, size: int) -> tuple[list[TensorInfo], list[str]]:
    tensors: list[TensorInfo] = []
    problems: list[str] = []
    for name, entry in entries.items():
        found = _tensor(path, name, entry, start)
        if isinstance(found, str):
            problems.append(f"{path}: {name}: {found}")
            continue
        if found.end > size:
            problems.append(f"{path}: {name}: truncated: ends at byte {found.end}, the file has {size}")
        tensors.append(found)
    problems += overlaps(tensors)
    end = max((tensor.end for tensor in tensors), default=start)
    stored = sum(tensor.nbytes for tensor in tensors)
    if not problems and (end != size or stored != size - start):
        problems.append(f"{path}: {size - start} bytes of data, its tensors account for {stored}")
    return tensors, problems


def _tensor(path: Path, name: str, raw: msgspec.Raw, start: int) -> TensorInfo | str:
    try:
        entry: Any = msgspec.json.decode(raw, type=_Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"its header entry lacks dtype, shape or data_offsets, or has other kinds: {error}"
    dtype, shape, (lo, hi) = entry.dtype, tuple(entry.shape), entry.data_offsets
    if len(shape) > MOST_DIMS:
        return f"{len(shape)} dims; legal: up to {MOST_DIMS}"
    if any(number < 0 for number in (*shape, lo, hi)):
        return f"shape {list(shape)} and data_offsets {[lo, hi]} must be non-negative integers"
    if dtype not in BITS:
        return f"unknown dtype {dtype}"
    wanted = -(-prod(shape) * BITS[dtype] // 8)
    if hi - lo != wanted:
        return f"{dtype} {list(shape)} takes {wanted} bytes, data_offsets give it {hi - lo}"
    return TensorInfo(name, shape, dtype, str(path), start + lo, wanted, name)
