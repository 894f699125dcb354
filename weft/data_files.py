"""Tables that are data: TOML files beside the modules that read them."""

from __future__ import annotations

from importlib.resources import files
from typing import TypeVar

import msgspec

T = TypeVar("T")


def read_toml(package: str, name: str, kind: type[T]) -> T:
    """The content of the file `name` of a package, checked against a type."""
    return msgspec.toml.decode(files(package).joinpath(name).read_bytes(), type=kind)
