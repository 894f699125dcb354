"""Every family of weft against the conformance checks of the seam."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.seams.family_conformance import check_family
from tests.support.checkpoints import small_config
from tests.support.exact_model import exact_config
from weft.base.errors import ConfigError
from weft.parallel.arch.block import _RUN, BlockSpec, refuse_not_run
from weft.parallel.arch.families import FAMILIES

MIXTURE: dict[str, Any] = {"num_local_experts": 5, "num_experts_per_tok": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    **{name: small_config(name) for name in ("llama", "mistral", "qwen2", "qwen3")},
    "mixtral": small_config(**MIXTURE, architectures=["MixtralForCausalLM"], model_type="mixtral"),
    "qwen3_moe": exact_config("experts"),
    "deepseek_v2": {
        **exact_config("latent"),
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "topk_method": "group_limited_greedy",
    },
    "deepseek_v3": exact_config("latent"),
    "glm4_moe": {
        **exact_config("latent"),
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "num_key_value_heads": 3,
        "use_qk_norm": True,
    },
    "glm4_moe_lite": {
        **exact_config("latent"),
        "architectures": ["Glm4MoeLiteForCausalLM"],
        "model_type": "glm4_moe_lite",
    },
    "smollm3": exact_config("rotation"),
    "phi3": small_config(architectures=["Phi3ForCausalLM"], model_type="phi3"),
    "seed_oss": small_config(architectures=["SeedOssForCausalLM"], model_type="seed_oss"),
    "ernie4_5": small_config(architectures=["Ernie4_5ForCausalLM"], model_type="ernie4_5"),
    "ministral3": small_config(architectures=["Ministral3ForCausalLM"], model_type="ministral3"),
}
NOT_RUN: dict[str, Any] = {
    "expert_bias": True,
    "qk_norm": "row",
    "softmax_cap": 50.0,
    "sinks": True,
    "activation": "gelu_tanh",
    "activation_limit": 7.0,
    "norm": "layer",
    "norm_offset": 1.0,
    "norm_before": False,
    "norm_after": True,
    "parallel": True,
    "residual_scale": 0.22,
    "embedding_scale": 12.0,
    "logit_scale": 0.1,
    "logit_cap": 30.0,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_family_meets_the_seam(name: str) -> None:
    assert FAMILIES[name].name == name
    check_family(FAMILIES[name], CONFIGS[name])


@pytest.mark.parametrize("name", NOT_RUN)
def test_a_value_without_an_operation_is_refused_by_name(name: str) -> None:
    word = {"activation": "hidden_act"}.get(name, name)
    with pytest.raises(ConfigError, match=rf"^{word} .*: only .* is supported") as error:
        refuse_not_run(replace(BlockSpec(), **{name: NOT_RUN[name]}), latent=False)
    assert error.value.field == word


def test_every_value_of_a_block_is_run_or_refused() -> None:
    rotation = {"ropes", "rotary_share", "rope_interleaved", "query_growth"}
    run = {"qkv_bias", "o_bias", "mlp_bias", "windows", "softmax_scale"} | rotation
    assert {each.name for each in fields(BlockSpec)} == run | set(NOT_RUN)
    assert set(_RUN) == set(NOT_RUN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("qkv_bias", True), ("qk_norm", "head"), ("softmax_scale", 0.5), ("ropes", ("none",)), ("rotary_share", 0.5),
        ("rope_interleaved", True), ("query_growth", (0.1, 9)),
    ],
)  # fmt: skip
def test_latent_attention_refuses_what_it_lacks(name: str, value: Any) -> None:
    block = replace(BlockSpec(), **{name: value})
    refuse_not_run(block, latent=False)
    with pytest.raises(ConfigError, match=name):
        refuse_not_run(block, latent=True)
