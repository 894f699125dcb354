"""The header of a GGUF model, whole or in parts: the first part's metadata, the tensors of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.base.errors import CheckpointError
from weft.base.fields import shown
from weft.model.checkpoint.files import FileState
from weft.model.checkpoint.gguf.header import GgufHeader, read_gguf_header
from weft.model.checkpoint.gguf.part_names import part_names
from weft.model.checkpoint.tensors import TensorInfo, raise_all

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"


@dataclass(frozen=True, slots=True)
class GgufModel:
    """metadata, tensors: see GgufHeader. states: by path, what each file was when it was read."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    states: dict[str, FileState]


def read_gguf(path: Path) -> GgufModel:
    """The model that `path` is, or is a part of. CheckpointError: every fault, a missing part by its name."""
    header = read_gguf_header(path)
    if header.metadata.get(COUNT, 0) in (0, 1):
        return GgufModel(header.metadata, header.tensors, {str(path): header.state})
    names = part_names(path.name)
    if len(names) == 1 or header.metadata[COUNT] != len(names):
        wanted = f"{path.stem}-00001-of-0000N.gguf"
        said = f"{COUNT} {shown(header.metadata[COUNT])}: a part of a model; legal: all parts in one place as {wanted}"
        raise_all(str(path), [f"{path}: {said}"])
    parts = {path.with_name(name): header for name in names if name == path.name}
    problems: list[str] = []
    for other in (path.with_name(name) for name in names if name != path.name):
        try:
            parts[other] = read_gguf_header(other)
        except CheckpointError as error:
            problems += error.problems
    raise_all(str(path), problems)
    ordered = {path.with_name(name): parts[path.with_name(name)] for name in names}
    raise_all(str(path), list(_strangers(ordered)))
    return GgufModel(
        ordered[path.with_name(names[0])].metadata,
        tuple(tensor for part in ordered.values() for tensor in part.tensors),
        {str(place): part.state for place, part in ordered.items()},
    )


def _strangers(parts: dict[Path, GgufHeader]) -> Iterator[str]:
    """A line for each part that is not the one its name says, or of another model than the first."""
    first_path, first = next(iter(parts.items()))
    for number, (path, part) in enumerate(parts.items()):
        wanted = {NUMBER: number, COUNT: len(parts), TENSORS: first.metadata.get(TENSORS)}
        general = {key: first.metadata[key] for key in part.metadata if key in first.metadata and key not in wanted}
        for key, value in (wanted | general).items():
            if part.metadata.get(key) != value:
                got, expected = shown(part.metadata.get(key)), shown(value)
                yield f"{path}: {key} {got}: a part of another model than {first_path}; wanted {expected}"
    held = Counter(tensor.source for part in parts.values() for tensor in part.tensors)
    yield from (f"{first_path}: {name}: in {count} parts; legal: one" for name, count in held.items() if count > 1)
    if held.total() != first.metadata.get(TENSORS):
        said = shown(first.metadata.get(TENSORS))
        yield f"{first_path}: {TENSORS} {said}: its {len(parts)} parts hold {held.total()} tensors"
