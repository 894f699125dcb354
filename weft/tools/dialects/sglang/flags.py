"""SGLang's flags, read from `vocabulary.toml`; the meaning of the sizes is in `sizes`."""

from __future__ import annotations

from weft.base.data_files import read_toml
from weft.tools.dialects.flags import Table, parse_table
from weft.tools.dialects.vocabulary import COMMON, EngineFlags

_OWN = read_toml("weft.tools.dialects.sglang", "vocabulary.toml", EngineFlags)
TABLE = Table(parse_table(_OWN.sizes, COMMON.sglang_and_tokenspeed, COMMON.all, _OWN.engine))
NAMES = COMMON.names | _OWN.names
OFF = _OWN.off
PROGRAMS, OWN_FLAGS, DEFAULTS = _OWN.programs, _OWN.own, _OWN.defaults
