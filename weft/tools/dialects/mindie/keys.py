"""Keys of MindIE's config.json, read from `vocabulary.toml`."""

from __future__ import annotations

import msgspec

from weft.base.data_files import read_toml


class _Vocabulary(msgspec.Struct, frozen=True):
    sizes: tuple[str, ...]
    local: tuple[str, ...]
    places: tuple[str, ...]
    holders: tuple[str, ...]
    keys: str
    deploy: tuple[str, ...]
    models: str
    renamed: dict[str, str]
    buffers: dict[str, int]
    servers: dict[str, str]
    pods: dict[str, tuple[str, str]]


_OWN = read_toml("weft.tools.dialects.mindie", "vocabulary.toml", _Vocabulary)
SIZES, LOCAL, BUFFERS = _OWN.sizes, _OWN.local, _OWN.buffers
PLACES, HOLDERS, SERVERS, PODS = _OWN.places, _OWN.holders, _OWN.servers, _OWN.pods
RENAMED = _OWN.renamed
KEYS, MODELS = frozenset(_OWN.keys.split()), frozenset(_OWN.models.split())
DEPLOY = _OWN.deploy
_BACKEND = ("backendName", "modelInstanceNumber", "npuDeviceIds", "tokenizerProcessNumber", "kvPoolConfig")
BACKEND = frozenset((*_BACKEND, *(key for key in KEYS if key.startswith(("multiNodes", "interNode")))))
"""Those of KEYS that stand in BackendConfig."""
