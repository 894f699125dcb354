"""The header of a safetensors file as tensor records, with every fault in it."""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path
from typing import Any

from weft.checkpoint.tensors import TensorInfo, overlaps

MAX_HEADER_BYTES = 100_000_000
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one element of each of safetensors' dtypes."""


def read_header(path: Path) -> tuple[list[TensorInfo], list[str]]:
    """Tensors of the file at `path`, and a line for every fault found in its header or length."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                return [], [f"{path}: truncated: {size} bytes, its header alone says {8 + length}"]
            text = file.read(length)
    except OSError as error:
        return [], [f"{path}: {error.strerror}"]
    try:
        entries = json.loads(text)
    except ValueError as error:
        return [], [f"{path}: its header is not JSON: {error}"]
    if not isinstance(entries, dict):
        return [], [f"{path}: its header is not a JSON object"]
    entries.pop("__metadata__", None)
    return _check(path, entries, 8 + length, size)


def _check(path: Path, entries: dict[str, Any], start: int, size: int) -> tuple[list[TensorInfo], list[str]]:
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


def _tensor(path: Path, name: str, entry: Any, start: int) -> TensorInfo | str:
    try:
        dtype, shape, (lo, hi) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        return "its header entry lacks dtype, shape or data_offsets"
    if not all(type(number) is int and number >= 0 for number in (*shape, lo, hi)):
        return f"shape {list(shape)} and data_offsets {[lo, hi]} must be non-negative integers"
    if dtype not in BITS:
        return f"unknown dtype {dtype}"
    wanted = -(-prod(shape) * BITS[dtype] // 8)
    if hi - lo != wanted:
        return f"{dtype} {list(shape)} takes {wanted} bytes, data_offsets give it {hi - lo}"
    return TensorInfo(name, shape, dtype, str(path), start + lo, wanted, name)
