"""model_path: from the MODEL argument, a path or an id on a model hub (org/name, org/name:file.gguf), to files."""

from __future__ import annotations

import os
from pathlib import Path

from weft.base.errors import CheckpointError, UsageError
from weft.model.checkpoint.hub.embedded import embedded_model
from weft.model.checkpoint.hub.names import Say, hub_model


def model_path(
    word: str | os.PathLike[str] | None,
    say: Say = lambda _: None,
    *,
    revision: str | None = None,
    weights: bool = True,
) -> Path:
    """The directory or file of MODEL: a path that exists, a hub id (fetched if needed); None: the embedded model.

    `weights`: without them, only the configuration is fetched. CheckpointError: no such path or model, or it has
    nothing that weft can load. UnavailableError: the hub cannot be reached and the cache lacks the model.
    """
    if word is not None and not os.path.exists(word) and (model := hub_model(str(word), revision)):
        # Here and not at the top: a path needs no HTTP client, which takes long to import.
        from weft.model.checkpoint.hub.fetch import fetch

        return fetch(model, say, weights=weights)
    if revision is not None:
        raise UsageError(f"--revision {revision}: only a model on a hub (org/name) has revisions")
    if word is None:
        return embedded_model(say)
    if not os.path.exists(word):
        raise CheckpointError(f"model {word or repr(word)}: no such file or directory, and not a hub id (org/name)")
    return Path(word)


def shown_name(word: str | None, path: str | os.PathLike[str]) -> str:
    """What to call the model: a hub id as it was written, else the directory's name or the file's without suffix."""
    if word is not None and not os.path.exists(word) and hub_model(word):
        return word
    place = Path(path).resolve()
    return place.stem if place.suffix == ".gguf" else place.name
