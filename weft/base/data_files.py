"""Tables and schemas that are data: files beside the modules that read them."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, TypeVar

import msgspec
import yaml

T = TypeVar("T")


def read_toml(package: str, name: str, kind: type[T]) -> T:
    """The content of the file `name` of a package, checked against a type."""
    return msgspec.toml.decode(files(package).joinpath(name).read_bytes(), type=kind)


def read_schema(package: str, title: str) -> dict[str, Any]:
    """The JSON schema in `schema.yaml` of a package. An object that does not say which of its properties are required
    has each of them, and no other."""
    document = yaml.safe_load(files(package).joinpath("schema.yaml").read_text(encoding="utf-8"))
    schema: dict[str, Any] = _closed(document["schema"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def _closed(part: Any) -> Any:
    """A copy in which every object says what it requires."""
    if isinstance(part, list):
        return [_closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    copy = {name: _closed(value) for name, value in part.items()}
    if part.get("type") == "object" and "properties" in part and "required" not in part:
        copy |= {"required": list(part["properties"]), "additionalProperties": False}
    return copy
