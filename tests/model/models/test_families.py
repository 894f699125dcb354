"""Each family against transformers on a small random checkpoint: logits within 1e-4 in fp32, greedy tokens equal."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    Glm4MoeLiteConfig,
    Glm4MoeLiteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SeedOssConfig,
    SeedOssForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from weft.base.errors import ConfigError
from weft.base.settings import EngineConfig
from weft.compute.native import libraries
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.arch.config import MOST_CHOICES
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.verify.record import GreedyOutput, LogitsRecorder, outcomes

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 131,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
SMOLLM2 = {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 32}
GROWING = {
    **YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.4, "original_max_position_embeddings": 7,
}  # fmt: skip
CASES: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "llama2": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "llama2-linear": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
    ),
    "llama3": (LlamaForCausalLM, LlamaConfig(**SIZES, rope_parameters=LLAMA3)),
    "llama-yarn": (LlamaForCausalLM, LlamaConfig(**SIZES, rope_parameters=YARN)),
    "llama-biased": (LlamaForCausalLM, LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "smollm2": (LlamaForCausalLM, LlamaConfig(**{**SIZES, **SMOLLM2}, tie_word_embeddings=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=None)),
    "mistral-window": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=9)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen2-window": (
        Qwen2ForCausalLM,
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=7, max_window_layers=1),
    ),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)),
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 6, "kv_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 16,
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 20, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "routed_scaling_factor": 1.5,
}  # fmt: skip
MSCALE = {**YARN, "mscale": 0.7, "mscale_all_dim": 0.7}
QWEN3_MOE: Any = Qwen3MoeConfig
"""Its signature does not list all of its fields."""
EXPERTS: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "mixtral": (MixtralForCausalLM, MixtralConfig(**SIZES, num_local_experts=5, num_experts_per_tok=2)),
    "qwen3-moe": (
        Qwen3MoeForCausalLM,
        QWEN3_MOE(
            **SIZES, head_dim=16, num_experts=7, num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True
        ),
    ),
    "qwen3-moe-sparse": (
        Qwen3MoeForCausalLM,
        QWEN3_MOE(
            **SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, decoder_sparse_step=2
        ),
    ),
    "deepseek-v2": (
        DeepseekV2ForCausalLM,
        DeepseekV2Config(**{**SIZES, **LATENT}, q_lora_rank=None, topk_method="greedy"),
    ),
    "deepseek-v2-grouped": (
        DeepseekV2ForCausalLM,
        DeepseekV2Config(
            **{**SIZES, **LATENT}, q_lora_rank=16, topk_method="group_limited_greedy", n_group=4, topk_group=2
        ),
    ),
    "deepseek-v3": (
        DeepseekV3ForCausalLM,
        DeepseekV3Config(**{**SIZES, **LATENT}, q_lora_rank=16, n_group=4, topk_group=2, rope_parameters=MSCALE),
    ),
}
CASES |= EXPERTS
ODD: dict[str, Any] = {
    **SIZES, "hidden_size": 52, "intermediate_size": 76, "num_attention_heads": 6, "num_key_value_heads": 2,
    "head_dim": 20,
}  # fmt: skip
"""Every size is of its own, so that no transposition hides."""
SPARSE: dict[str, Any] = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 28, "n_shared_experts": 2,
    "routed_scaling_factor": 1.5,
}  # fmt: skip
GLM_LATENT: dict[str, Any] = {
    "num_key_value_heads": 6, "kv_lora_rank": 24, "q_lora_rank": 36, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12,
    "v_head_dim": 16,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 1000.0, "partial_rotary_factor": 0.75,
    "short_factor": [1.0 + i / 7 for i in range(6)], "long_factor": [2.0 + i / 3 for i in range(6)],
}  # fmt: skip
PHI: dict[str, Any] = {key: value for key, value in ODD.items() if key != "head_dim"} | {
    "hidden_size": 96, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
NO_SHARE = {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5}
CASES |= {
    "glm4-moe": (
        Glm4MoeForCausalLM,
        Glm4MoeConfig(**ODD, **SPARSE, use_qk_norm=True, attention_bias=True, n_group=4, topk_group=2),
    ),
    "glm4-moe-plain": (
        Glm4MoeForCausalLM,
        Glm4MoeConfig(**ODD, **SPARSE, first_k_dense_replace=2, rope_parameters=NO_SHARE),
    ),
    "glm4-moe-lite": (Glm4MoeLiteForCausalLM, Glm4MoeLiteConfig(**{**ODD, "head_dim": 8, **SPARSE, **GLM_LATENT})),
    "glm4-moe-lite-sparse": (
        Glm4MoeLiteForCausalLM,
        Glm4MoeLiteConfig(
            **{**ODD, "head_dim": 8, **SPARSE, **GLM_LATENT, "mlp_layer_types": ["sparse", "dense", "sparse"]}
        ),
    ),
    "smollm3": (
        SmolLM3ForCausalLM,
        SmolLM3Config(**{**SIZES, "num_hidden_layers": 5}, pad_token_id=0, attention_bias=True, mlp_bias=True),
    ),
    "smollm3-window": (
        SmolLM3ForCausalLM,
        SmolLM3Config(**SIZES, pad_token_id=0, use_sliding_window=True, sliding_window=7, no_rope_layers=[0, 1, 0]),
    ),
    "phi3": (Phi3ForCausalLM, Phi3Config(**PHI, sliding_window=9)),
    "phi4-long": (Phi3ForCausalLM, Phi3Config(**PHI, original_max_position_embeddings=8, rope_parameters=LONG)),
    "ministral3": (Ministral3ForCausalLM, Ministral3Config(**SIZES, head_dim=14, rope_parameters=GROWING)),
    "phi4-short": (Phi3ForCausalLM, Phi3Config(**PHI, original_max_position_embeddings=64, rope_parameters=LONG)),
    "seed-oss": (SeedOssForCausalLM, SeedOssConfig(**ODD, pad_token_id=0, attention_out_bias=True)),
    "ernie4-5": (Ernie4_5ForCausalLM, Ernie4_5Config(**ODD, use_bias=True)),
}
TOKENS = 6


def randomize_biases(model: PreTrainedModel, seed: int) -> None:
    """transformers starts biases and norms at 0 and 1, where a lost one would not show."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.add_(0.2 * torch.randn(buffer.shape, generator=draw))


def prompts_for(seed: int) -> list[tuple[int, ...]]:
    draw = random.Random(seed)
    return [tuple(draw.randrange(1, 131) for _ in range(length)) for length in (23, 1, 12)]


def ours(path: Path, prompts: list[tuple[int, ...]], world: int) -> list[GreedyOutput]:
    checkpoint = open_checkpoint(path)
    config = parse_config(checkpoint.config)
    layout = resolve({"attention.tp": world, "lm_head.tp": 1}, world, num_experts=config.num_experts)
    shards = Shards(config, layout)
    limits = RankCapacity(num_blocks=40, block_size=8, max_num_seqs=4, max_model_len=64)
    executor = LockstepExecutor(checkpoint, shards, Numerics(torch.float32), limits, torch.device("cpu"))
    recorder = LogitsRecorder(executor)
    limits_given = EngineConfig(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=16, block_size=8)
    return outcomes(Engine(recorder, limits_given, ()), recorder, prompts, TOKENS)


def theirs(model: PreTrainedModel, prompt: tuple[int, ...]) -> GreedyOutput:
    generate: Any = model.generate
    found = generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return GreedyOutput(found.sequences[0, len(prompt) :].tolist(), [row[0] for row in found.logits])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_family_equals_transformers(name: str, tmp_path: Path) -> None:
    kind, config = CASES[name]
    torch.manual_seed(7)
    model = kind(config).float().eval()
    randomize_biases(model, 11)
    model.save_pretrained(tmp_path)
    # transformers takes the short factors for each request that is short itself
    prompts = [prompt for prompt in prompts_for(3) if name != "phi4-long" or len(prompt) > 8]
    with torch.inference_mode():
        reference = [theirs(model, prompt) for prompt in prompts]
        prompts.append((*prompts[0], *reference[0].tokens[:2]))  # its blocks are in the cache when it arrives
        reference.append(theirs(model, prompts[-1]))
    for world in (1, 2):
        for want, got in zip(reference, ours(tmp_path, prompts, world), strict=True):
            assert got.tokens == want.tokens
            torch.testing.assert_close(torch.stack(got.logits), torch.stack(want.logits), atol=1e-4, rtol=1e-4)


def test_a_row_goes_to_no_more_experts_than_kernels_have_room_for() -> None:
    header = (libraries.SOURCES / "runtime" / "instruction.h").read_text()
    assert f"kMostChoices = {MOST_CHOICES};" in header
    raw = {**SIZES, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 200}
    assert parse_config({**raw, "num_experts_per_tok": MOST_CHOICES}).moe is not None
    with pytest.raises(ConfigError, match="num_experts_per_tok 65: the model has 200 experts; legal: 1 to 64"):
        parse_config({**raw, "num_experts_per_tok": MOST_CHOICES + 1})
