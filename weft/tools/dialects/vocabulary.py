"""An engine's words: flags, keys and their names, read from the `vocabulary.toml` of its folder.

The file beside this module has the rows that stand in several engines with the same name, kind and meaning.
"""

from __future__ import annotations

import msgspec

from weft.base.data_files import read_toml


class EngineFlags(msgspec.Struct, frozen=True):
    """What a dialect of flags states; `sizes` and `engine` are tables in the words of `flags.parse_table`."""

    programs: tuple[tuple[str, ...], ...]
    own: tuple[str, ...]
    sizes: str
    engine: str
    names: dict[str, str]
    """Option -> flag."""
    off: dict[str, str]
    """Option that is on by default -> the flag that turns it off."""
    defaults: dict[str, str]


class CommonFlags(msgspec.Struct, frozen=True):
    """Tables of flags that several engines have, and options for which all three have the same flag."""

    all: str
    sglang_and_tokenspeed: str
    vllm_and_tokenspeed: str
    names: dict[str, str]


COMMON = read_toml("weft.tools.dialects", "vocabulary.toml", CommonFlags)
