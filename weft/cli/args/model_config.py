"""MODEL as a config alone: a directory, a .gguf, a hub id, a bare config.json, or the name of a known model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import weft.parallel.arch
from weft.base.errors import CheckpointError, UsageError
from weft.base.options import nearest
from weft.cli.args.model import add_model
from weft.model.checkpoint import Checkpoint
from weft.model.checkpoint.files import FileFault, read_object
from weft.model.checkpoint.hub.paths import model_path, shown_name
from weft.model.checkpoint.open import open_checkpoint
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.families import parse_config

KNOWN = Path(weft.parallel.arch.__file__).parent / "known"
"""Configs of well-known models, from their public model cards."""


def add_config_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, and --without-checkpoint."""
    add_model(parser)
    parser.add_argument(
        "--without-checkpoint",
        action="store_true",
        help=f"MODEL is a config.json, or the name of a model known by its config: {', '.join(known_models())}",
    )


def known_models() -> tuple[str, ...]:
    """Names of the configs that come with weft."""
    return tuple(sorted(file.stem for file in KNOWN.glob("*.json")))


def model_config(word: str | None, revision: str | None, *, without_checkpoint: bool) -> tuple[str, ModelConfig]:
    """Name and config of MODEL, without its weights: a directory needs no more than config.json."""
    if without_checkpoint:
        return _config_alone(word)
    path = model_path(word, lambda line: print(line, file=sys.stderr), revision=revision, weights=False)
    file = path / "config.json" if path.is_dir() else path
    if file.suffix == ".json":
        return shown_name(word, path if path.is_dir() else file.resolve().parent), parse_config(_json(file), str(file))
    return shown_name(word, path), open_checkpoint(path).model_config()


def model_checkpoint(word: str | None, revision: str | None) -> Checkpoint | None:
    """The tensor table of MODEL where it is one file; None for a directory."""
    path = model_path(word, lambda line: print(line, file=sys.stderr), revision=revision, weights=False)
    return open_checkpoint(path) if path.is_file() and path.suffix != ".json" else None


def _config_alone(word: str | None) -> tuple[str, ModelConfig]:
    if word is None:
        raise UsageError(f"--without-checkpoint: name a config.json, or one of {', '.join(known_models())}")
    known = {name.lower(): name for name in known_models()}
    name = known.get(word.rpartition("/")[2].lower())
    if Path(word).exists():
        file = Path(word)
        file = file / "config.json" if file.is_dir() else file
        return file.resolve().parent.name, parse_config(_json(file), str(file))
    if name is None:
        raise UsageError(
            f"--without-checkpoint: {word} is no file, and no model known by its config"
            f"{nearest(word, known_models())}; known: {', '.join(known_models())}"
        )
    return name, parse_config(_json(KNOWN / f"{name}.json"))


def _json(file: Path) -> dict[str, object]:
    try:
        return read_object(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: No such file or directory") from None
    except FileFault as fault:
        raise CheckpointError(f"{file}: {fault}") from None
