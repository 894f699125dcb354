"""TensorRT-LLM's flags and the keys of its YAML files, read from `vocabulary.toml`."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from weft.base.data_files import read_toml
from weft.tools.dialects.flags import Flag, Table, parse_table


class _Vocabulary(msgspec.Struct, frozen=True):
    flags: str
    plain_keys: str
    role_keys: tuple[str, ...]
    own_keys: tuple[str, ...]
    sizes: dict[str, tuple[str, ...]]
    renamed: dict[str, str]
    servers: dict[str, str]


def _both_spellings(flag: Flag) -> Flag:
    """Flags are spelled with underscores; the same with dashes is meant alike."""
    dashed = ["--" + name[2:].replace("_", "-") for name in flag.names if name.startswith("--")]
    return replace(flag, names=tuple(dict.fromkeys((*flag.names, *dashed))))


_OWN = read_toml("weft.tools.dialects.trtllm", "vocabulary.toml", _Vocabulary)
TABLE = Table(tuple(_both_spellings(flag) for flag in parse_table(_OWN.flags)), prefixes=False)
SIZES, RENAMED, SERVERS = _OWN.sizes, _OWN.renamed, _OWN.servers
ROLE_KEYS, OWN_KEYS = _OWN.role_keys, _OWN.own_keys
SIZE_KEYS = frozenset((*SIZES, *(alias for aliases in SIZES.values() for alias in aliases)))
"""Keys that decide the layout, by every name that they have."""
KEYS = SIZE_KEYS | {*_OWN.plain_keys.split(), "pp_partition", "cp_config", "moe_config"}
"""Keys that a file of one engine may have at its top."""
CP_TYPES = ("ULYSSES", "STAR", "RING", "HELIX")
