"""A model directory as a Checkpoint: config.json, safetensors files, tokenizer files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weft.checkpoint.checkpoint import Checkpoint, Json, TokenizerSource
from weft.checkpoint.safetensors.header import read_header
from weft.checkpoint.tensors import TensorInfo, raise_all

CONFIG = ("config.json", "generation_config.json")
TEXT = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED = (".bin", ".pt", ".pth")
"""How files end whose weights are pickles, which run code when they are read."""
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


def open_directory(path: Path) -> Checkpoint:
    """Checkpoint of the directory `path`; CheckpointError with every missing or faulty file."""
    problems: list[str] = []
    config = _json(path / "config.json", problems, required=True)
    generation = _json(path / "generation_config.json", problems)
    tokenizer = _tokenizer(path, problems)
    tensors = _tensors(path, problems)
    raise_all(str(path), problems)
    return Checkpoint(str(path), "safetensors", config, tensors, generation, tokenizer)


def _json(path: Path, problems: list[str], required: bool = False) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            problems.append(f"{path}: no such file")
        return {}
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return {}
    except ValueError as error:
        problems.append(f"{path}: not JSON: {error}")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path}: a JSON object is needed")
        return {}
    return value


def _tokenizer(path: Path, problems: list[str]) -> TokenizerSource | None:
    file = path / "tokenizer.json"
    if not file.is_file():
        return None
    config = _json(path / "tokenizer_config.json", problems)
    templates = named_templates(config.pop("chat_template", None))
    jinja = path / "chat_template.jinja"
    try:
        templates["default"] = jinja.read_text(encoding="utf-8")
    except FileNotFoundError:
        pass  # the template of tokenizer_config.json stands
    except (OSError, ValueError) as error:
        problems.append(f"{jinja}: {error}")
    return TokenizerSource(json_path=str(file), config=config, chat_templates=templates)


def named_templates(value: Any) -> dict[str, str]:
    """The templates of a tokenizer config's `chat_template`: one string, or a list of {name, template}."""
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list):
        entries = [item for item in value if isinstance(item, dict) and {"name", "template"} <= set(item)]
        return {str(item["name"]): str(item["template"]) for item in entries}
    return {}


def _tensors(path: Path, problems: list[str]) -> dict[str, TensorInfo]:
    files, where = _weight_files(path, problems)
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        found, faults = read_header(file)
        problems += faults
        for tensor in found:
            if tensor.name in tensors:
                problems.append(f"{file}: {tensor.name}: also in {tensors[tensor.name].file}")
            tensors[tensor.name] = tensor
    readable = {tensor.file for tensor in tensors.values()}
    for name, file in where.items():
        if name not in tensors and str(file) in readable:
            problems.append(f"{file}: {name}: named by {INDEX}, not in the file")
    return tensors


def _weight_files(path: Path, problems: list[str]) -> tuple[list[Path], dict[str, Path]]:
    """The safetensors files to read, and where the index (if that is what names them) puts each tensor."""
    if (path / SINGLE).is_file():
        return [path / SINGLE], {}
    if (path / INDEX).is_file():
        return _indexed(path, problems)
    files = sorted(path.glob("*.safetensors"))
    if len(files) > 1:
        problems += _missing_numbers(files)
    if not files:
        names = [file.name for file in path.iterdir()]
        problems.append(f"{path}: no {SINGLE}, no {INDEX} and no other *.safetensors{pickle_among(names)}")
    return files, {}


def pickle_among(names: Iterable[str]) -> str:
    """What to add where safetensors are missing: names the first pickle, if there is one."""
    first = min((name for name in names if name.endswith(PICKLED)), default=None)
    return f" ({first} is a pickle, which weft never opens: convert it to safetensors)" if first else ""


def _indexed(path: Path, problems: list[str]) -> tuple[list[Path], dict[str, Path]]:
    weight_map = _json(path / INDEX, problems).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        problems.append(f"{path / INDEX}: has no weight_map")
        return [], {}
    where: dict[str, Path] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            problems.append(f"{path / INDEX}: {name}: {file!r} is not the name of a file in this directory")
        else:
            where[name] = path / file
    files = sorted(set(where.values()))
    for file in files:
        if not file.is_file():
            count = sum(place == file for place in where.values())
            problems.append(f"{file}: no such file; {INDEX} puts {count} tensors there")
    return [file for file in files if file.is_file()], where


def _missing_numbers(files: list[Path]) -> list[str]:
    """Faults of several files without an index: they must be one complete set, name-00001-of-0000N.safetensors."""
    parts = {file.name: SHARD.fullmatch(file.name) for file in files}
    sets = {(part["stem"], int(part["count"])) for part in parts.values() if part}
    if len(sets) != 1 or None in parts.values():
        return [f"{files[0].parent}: several *.safetensors and no {INDEX}: {', '.join(parts)}"]
    stem, count = sets.pop()
    wanted = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    return [f"{files[0].parent / name}: no such file" for name in wanted if name not in parts]
