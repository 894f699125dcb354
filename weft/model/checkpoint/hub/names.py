"""Names of models on a hub: org/name, org/name:file.gguf."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[str], None]

_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<file>[^:]+\.gguf))?")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the hub. `file`: the GGUF that was named; None: the safetensors. `revision`: None is the default."""

    repo: str
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        text = self.repo if self.file is None else f"{self.repo}:{self.file}"
        return text if self.revision is None else f"{text} at revision {self.revision}"


def hub_model(word: str, revision: str | None = None) -> HubModel | None:
    """The hub model that a word names; None where it can only be a path."""
    match = _ID.fullmatch(word)
    if match is None or match["repo"].endswith(".gguf"):
        return None
    return HubModel(match["repo"], match["file"], revision)
