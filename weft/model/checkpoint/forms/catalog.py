"""The catalog of forms: what is read, read as something, or refused. For the documents and the tests."""

from __future__ import annotations

from typing import Literal

import msgspec

from weft.base.data_files import read_toml


class CheckpointForm(msgspec.Struct, frozen=True):
    """A form that files of a model come in. `read as`: what it means is said at start."""

    name: str
    outcome: Literal["read", "read as", "refused"]
    meaning: str


class _Catalog(msgspec.Struct, frozen=True):
    forms: tuple[CheckpointForm, ...]


def checkpoint_forms() -> tuple[CheckpointForm, ...]:
    """All of them, in the order in which the documents show them."""
    return read_toml("weft.model.checkpoint.forms", "catalog.toml", _Catalog).forms
