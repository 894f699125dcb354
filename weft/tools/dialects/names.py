"""The names of all dialects. Apart from the registry, so that a command can list them without loading any."""

from __future__ import annotations

from pkgutil import iter_modules

import weft.tools.dialects

_FIRST = ("sglang", "trtllm", "vllm", "mindie", "tokenspeed")
"""The order in which dialects are tried: of two that recognize a text equally well, the first one reads it."""


def names() -> tuple[str, ...]:
    """The folders of this package that export DIALECT: every folder but `sources`. Those not in _FIRST come last."""
    found = {module.name for module in iter_modules(weft.tools.dialects.__path__) if module.ispkg} - {"sources"}
    return (*(name for name in _FIRST if name in found), *sorted(found - set(_FIRST)))
