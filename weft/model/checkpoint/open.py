"""open_checkpoint: the Checkpoint of a path, a model directory or a GGUF file."""

from __future__ import annotations

import os
from pathlib import Path

from weft.base.errors import CheckpointError
from weft.model.checkpoint.checkpoint import Checkpoint
from weft.model.checkpoint.directory import open_directory


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The model at `path`: a directory with config.json and safetensors, or a .gguf file.

    Reads headers only. CheckpointError lists everything missing, truncated, overlapping or not supported.
    """
    place = Path(path).absolute()
    if place.is_dir():
        return open_directory(place)
    if place.exists():
        # Here and not at the top: the package that knows this format is slow to import, and ranks do not need it.
        from weft.model.checkpoint.gguf.model import open_gguf

        return open_gguf(place)
    raise CheckpointError(f"model {path}: no such file or directory")
