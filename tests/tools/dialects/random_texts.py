"""Random texts for every dialect: commands with flags of any kind, files with keys of any kind, some of it damaged."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.support.dialects import commands
from weft.tools.dialects.mindie import keys as mindie_keys
from weft.tools.dialects.sglang import flags as sglang_flags
from weft.tools.dialects.tokenspeed import flags as tokenspeed_flags
from weft.tools.dialects.trtllm import flags as trtllm_flags
from weft.tools.dialects.vllm import flags as vllm_flags

TRTLLM_NAMES = st.sampled_from(
    [
        *sorted(trtllm_flags.SIZES),
        *sorted(trtllm_flags.KEYS),
        "num_slots",
        "layer_updates_per_iter",
        "context_servers",
        "gen",
    ]
)
TRTLLM_VALUE = st.one_of(
    st.integers(-2, 70).map(str),
    st.sampled_from(
        ["true", "null", "$TP", "[1, 2]", "{a: 1}", "{cp_type: HELIX}", "...", "<n>", "'8'", "", "0.5", "8x"]
    ),
    st.text(max_size=8),
)
TRTLLM_LINE = st.one_of(
    st.tuples(TRTLLM_NAMES, TRTLLM_VALUE).map(": ".join),
    st.sampled_from(["# TP", "---", "...", "worker_config:", "  gen:"]),
)
TRTLLM_FILE = st.lists(TRTLLM_LINE, max_size=12).map("\n".join)

MINDIE_VALUE: st.SearchStrategy[Any] = st.one_of(
    st.integers(-2, 70),
    st.sampled_from([None, True, "8", "$TP", "...", 0.5, [], {}, [[0, 1]], [{}]]),
    st.text(max_size=6),
)
MINDIE_LOCALS = st.dictionaries(st.sampled_from([*mindie_keys.LOCAL, "hccl_buffer", "x"]), MINDIE_VALUE, max_size=3)
MINDIE_SECTION = st.fixed_dictionaries(
    {},
    optional={
        "parallel_options": MINDIE_LOCALS,
        "ep_level": MINDIE_VALUE,
        "eplb": st.fixed_dictionaries({}, optional={"level": MINDIE_VALUE, "num_redundant_experts": MINDIE_VALUE}),
    },
)
MINDIE_CONFIG = st.one_of(
    st.dictionaries(st.sampled_from([*mindie_keys.SIZES, *sorted(mindie_keys.KEYS)]), MINDIE_VALUE, max_size=8),
    st.fixed_dictionaries(
        {"worldSize": st.sampled_from([1, 4, 8, 16, 64])},
        optional={name: st.sampled_from([-1, 1, 2, 4, 8, 16, "$N"]) for name in mindie_keys.SIZES[1:]}
        | {
            "models": st.fixed_dictionaries({"deepseekv2": MINDIE_SECTION}),
            "modelName": st.sampled_from(["DeepSeek-R1", "llama_65b"]),
        },
    ),
)
MINDIE_FILE = st.one_of(
    MINDIE_CONFIG.map(lambda config: {"ModelConfig": [config]}),
    MINDIE_CONFIG,
    st.tuples(MINDIE_CONFIG, MINDIE_VALUE).map(
        lambda pair: {"BackendConfig": {"npuDeviceIds": pair[1], "ModelDeployConfig": {"ModelConfig": [pair[0]]}}}
    ),
    MINDIE_CONFIG.map(lambda config: {"mindie_server_decode_config": {"ModelConfig": [config]}}),
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A file as text, some of it cut away or something put in."""
    text = json.dumps(draw(MINDIE_FILE), indent=draw(st.sampled_from([None, 1])))
    at = draw(st.integers(0, len(text)))
    return (
        text[:at]
        + draw(st.sampled_from(["", ",", "...", "}", "{", '"', "// x\n", "#", "\n1 ", "\t"]))
        + text[at + draw(st.integers(0, 2)) :]
    )


TEXTS: dict[str, st.SearchStrategy[str]] = {
    "sglang": commands("python -m sglang.launch_server", "--model-path ", sglang_flags.TABLE),
    "vllm": commands("vllm serve", "", vllm_flags.TABLE),
    "tokenspeed": commands("tokenspeed serve", "", tokenspeed_flags.TABLE),
    "trtllm": st.one_of(TRTLLM_FILE, commands("trtllm-serve", "", trtllm_flags.TABLE)),
    "mindie": st.one_of(MINDIE_FILE.map(json.dumps), damaged()),
}
