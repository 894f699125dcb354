"""Opens statistics and placement files of any known kind, recognized by what is in them, plain or gzip.

Statistics: {"logical_count": [...]} as SGLang records it, {"loads": [...]}, or the bare rows. Placements: this
program's JSON, SGLang's JSON, TensorRT-LLM's YAML.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from weft.base.errors import ConfigError
from weft.parallel.experts.files import formats
from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.statistics.loads import FloatArray, as_loads

LOAD_KEYS = ("logical_count", "loads")
PLACEMENT_KEYS = ("phy2log", "physical_to_logical_map", "initial_global_assignments")
_YAML = re.compile(r"^(?:num_slots|layer_updates_per_iter|initial_global_assignments)\s*:", re.MULTILINE)
"""A line that a TensorRT-LLM file has and JSON does not."""
_YAML_BEGINS = 1 << 16
"""Characters in which it stands, whatever the comments above it."""
LARGEST_FILE = 1 << 30
"""Bytes after unpacking; a gzip file can be small and unpack to anything."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a file holds: loads [layers, experts], or a placement. `missing`: layers that a placement file leaves
    out."""

    path: Path
    loads: FloatArray | None = None
    placement: ExpertPlacement | None = None
    missing: frozenset[int] = frozenset()
    by_layer: bool = False
    """Whether the file names each layer, so that its last may be left out too."""


def read_loads(path: Path) -> FloatArray:
    """Loads [layers, experts]. Raises ConfigError where the file holds something else."""
    value = _document(path)
    rows = _rows(value)
    if rows is None:
        raise _error(path, f"no statistics; wanted a JSON object with {' or '.join(LOAD_KEYS)}, or rows of numbers")
    return as_loads(rows, str(path))


def read_placement(path: Path, ranks: int | None = None) -> Source:
    """A placement; `ranks` is needed for kinds that do not say it. Raises ConfigError where the file holds something
    else, or is made for another number of ranks."""
    value = _document(path)
    if not isinstance(value, dict) or not any(key in value for key in PLACEMENT_KEYS):
        raise _error(path, f"no placement; wanted an object with {', '.join(PLACEMENT_KEYS)}")
    try:
        if "phy2log" in value:
            return Source(path, placement=formats.from_weft(value, ranks))
        if ranks is None:
            raise _error(path, "this kind of file does not say how many ranks there are; give --ranks")
        if "physical_to_logical_map" in value:
            return Source(path, placement=formats.from_sglang(value, ranks))
        placement, missing = formats.from_trtllm(value, ranks)
        return Source(path, placement=placement, missing=missing, by_layer=True)
    except ConfigError as error:
        if str(error).startswith(str(path)):
            raise
        raise ConfigError(f"{path}: {error}", field=error.field, value=error.value, legal=error.legal) from None


def read_any(path: Path, ranks: int | None = None) -> Source:
    """Statistics or a placement, by content."""
    value = _document(path)
    if isinstance(value, dict) and any(key in value for key in PLACEMENT_KEYS):
        return read_placement(path, ranks)
    return Source(path, loads=read_loads(path))


def _rows(value: object) -> object | None:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return next((value[key] for key in LOAD_KEYS if key in value), None)
    return None


def _document(path: Path) -> object:
    text = _text(path)
    if path.name.removesuffix(".gz").endswith((".yaml", ".yml")) or _YAML.search(text, 0, _YAML_BEGINS):
        return formats.parse_yaml(text, str(path))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _error(path, f"not JSON: {error}") from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise _error(path, f"more than {LARGEST_FILE} bytes")
        return data.decode("utf-8")
    except (OSError, EOFError, zlib.error) as error:
        raise _error(path, getattr(error, "strerror", None) or str(error)) from None
    except UnicodeDecodeError:
        raise _error(path, "not UTF-8 text") from None


def _error(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path}: {reason}", field="file", value=str(path))
