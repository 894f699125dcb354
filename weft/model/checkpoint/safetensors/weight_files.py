"""Which safetensors files a model directory is read from, and every tensor in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from weft.model.checkpoint.files import INDEX_LIMIT, FileFault, FileState, decode_json, read_bytes
from weft.model.checkpoint.safetensors.header import read_header
from weft.model.checkpoint.tensors import TensorInfo

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED = (".bin", ".pt", ".pth")
"""How files end whose weights are pickles, which run code when they are read."""
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
VARIANT = re.compile(r"model\.(?P<variant>[\w-]+)\.safetensors\.index\.json")
"""The index of weights that were saved with a variant's name, such as fp16."""
MOST_FILES = 10_000
MOST_NAME = 255
"""Bytes of a file name on Linux."""


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


@dataclass(slots=True)
class WeightFiles:
    """Every tensor of a directory, by name, what its files were when they were read, and every fault."""

    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    states: dict[str, FileState] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Lines for a person."""


def read_weight_files(path: Path) -> WeightFiles:
    """The tensors of the directory `path`."""
    found = WeightFiles()
    files, where = _files(path, found.problems)
    if files == [path / SINGLE] and (path / INDEX).exists() and not where:
        found.notes += _unread_index(path)
    for file in files:
        header = read_header(file)
        found.problems += header.problems
        if header.state is not None:
            found.states[str(file)] = header.state
        for tensor in header.tensors:
            if tensor.name in found.tensors:
                found.problems.append(f"{file}: {tensor.name}: also in {found.tensors[tensor.name].file}")
            found.tensors[tensor.name] = tensor
    _compare(where, found)
    return found


def _compare(where: dict[str, Path], found: WeightFiles) -> None:
    """Faults where the index and the files that it names differ."""
    for name, file in where.items():
        if str(file) not in found.states:
            continue
        if name not in found.tensors:
            found.problems.append(f"{file}: {name}: named by {INDEX}, not in the file")
        elif found.tensors[name].file != str(file):
            found.problems.append(f"{file}: {name}: named by {INDEX}, but it is in {found.tensors[name].file}")
    if where:
        extra = [tensor for name, tensor in found.tensors.items() if name not in where]
        found.problems += [f"{tensor.file}: {tensor.name}: not named by {INDEX}" for tensor in extra]


def _unread_index(path: Path) -> list[str]:
    """What to say of an index beside a file that holds all, as in transformers."""
    try:
        others = {*read_index(path / INDEX).values()} - {SINGLE}
    except (FileFault, FileNotFoundError):
        others = {INDEX}
    return [f"{path / SINGLE} counts; {INDEX} names other files, which are not read"] if others else []


def _files(path: Path, problems: list[str]) -> tuple[list[Path], dict[str, Path]]:
    """The safetensors files to read, and where the index (if that is what names them) puts each tensor."""
    if (path / SINGLE).exists():
        return [path / SINGLE], {}
    if (path / INDEX).exists():
        return _indexed(path, INDEX, problems)
    names = sorted(file.name for file in path.iterdir())
    indexes = [name for name in names if VARIANT.fullmatch(name)]
    if len(indexes) == 1:
        return _indexed(path, indexes[0], problems)
    files = [path / name for name in names if name.endswith(".safetensors")]
    if len(files) > 1:
        problems += _missing_numbers(files)
    if not files:
        problems.append(f"{path}: no {SINGLE}, no {INDEX} and no other *.safetensors{pickle_among(names)}")
    return files, {}


def pickle_among(names: Iterable[str]) -> str:
    """What to add where safetensors are missing: names the first pickle, if there is one."""
    first = min((name for name in names if name.endswith(PICKLED)), default=None)
    return f" ({first} is a pickle, which weft never opens: convert it to safetensors)" if first else ""


def read_index(file: Path) -> dict[str, str]:
    """weight_map of an index: name of a tensor -> name of a file beside the index. FileFault, FileNotFoundError."""
    weight_map = decode_json(read_bytes(file, INDEX_LIMIT), _Index, "the index with its weight_map").weight_map
    if not weight_map:
        raise FileFault("its weight_map is empty")
    if len(names := {*weight_map.values()}) > MOST_FILES:
        raise FileFault(f"its weight_map names {len(names)} files; legal: up to {MOST_FILES}")
    return weight_map


def _indexed(path: Path, index: str, problems: list[str]) -> tuple[list[Path], dict[str, Path]]:
    try:
        weight_map = read_index(path / index)
    except (FileFault, FileNotFoundError) as fault:
        problems.append(f"{path / index}: {fault if isinstance(fault, FileFault) else 'no such file'}")
        return [], {}
    where: dict[str, Path] = {}
    for name, file in weight_map.items():
        if Path(file).name != file or "\0" in file or file in (".", ".."):
            problems.append(f"{path / index}: {name}: {file!r} is not the name of a file in this directory")
        elif len(os.fsencode(file)) > MOST_NAME:
            problems.append(
                f"{path / index}: {name}: a file's name has {len(file)} characters; legal: {MOST_NAME} bytes"
            )
        elif not file.endswith(".safetensors"):
            problems.append(f"{path / index}: {name}: {file!r} is no safetensors file")
        else:
            where[name] = path / file
    there = [file for file in sorted({*where.values()}) if file.exists()]
    for missing in sorted({*where.values()} - {*there}):
        count = sum(place == missing for place in where.values())
        problems.append(f"{missing}: no such file; {index} puts {count} tensors there")
    return there, where


def _missing_numbers(files: list[Path]) -> list[str]:
    """Faults of several files without an index: they must be one complete set, name-00001-of-0000N.safetensors."""
    parts = {file.name: SHARD.fullmatch(file.name) for file in files}
    sets = {(part["stem"], int(part["count"])) for part in parts.values() if part}
    if len(sets) != 1 or None in parts.values():
        return [f"{files[0].parent}: several *.safetensors and no {INDEX}: {', '.join(parts)}"]
    stem, count = sets.pop()
    wanted = (f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1))
    return [f"{files[0].parent / name}: no such file" for name in wanted if name not in parts]
