"""vLLM's and vLLM-Ascend's flags, read from `vocabulary.toml`; the meaning of the sizes is in `sizes`."""

from __future__ import annotations

from weft.base.data_files import read_toml
from weft.tools.dialects.flags import Table, parse_table
from weft.tools.dialects.vocabulary import COMMON, EngineFlags

_OWN = read_toml("weft.tools.dialects.vllm", "vocabulary.toml", EngineFlags)
TABLE = Table(
    parse_table(_OWN.sizes, COMMON.vllm_and_tokenspeed, COMMON.all, _OWN.engine), underscores=True, dotted=True
)
NAMES = COMMON.names | _OWN.names
OFF = _OWN.off
PROGRAMS, OWN_FLAGS, DEFAULTS = _OWN.programs, _OWN.own, _OWN.defaults

MODULE_CONFIG = "finegrained_tp_config"
MODULE_SIZES = {
    "embedding_tensor_parallel_size": "embedding",
    "lmhead_tensor_parallel_size": "lm_head",
    "oproj_tensor_parallel_size": "o_proj",
    "mlp_tensor_parallel_size": "dense",
}
"""vLLM-Ascend's sizes under --additional-config MODULE_CONFIG -> module."""
