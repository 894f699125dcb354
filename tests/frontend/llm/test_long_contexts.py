"""Prompts that no single rank has room for, by ranks that share the context: what transformers answers.

16,000 tokens of random models: one KV head (tp 2, kv_split 2, and cp), and latents.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.checkpoints import make_tokenizer
from weft.base.errors import ConfigError
from weft.base.step.sampling_params import SamplingParams
from weft.frontend.llm import LLM
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import Shards
from weft.parallel.layout.resolve import resolve
from weft.tools.verify.compare import RELATIVE_TOLERANCE

LENGTH, TOKENS, WINDOW = 16_000, 4, 32_768
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 1, "head_dim": 16},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 24,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 12,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
}
LAYOUTS: dict[str, dict[str, object]] = {
    "cp 2": {"attention.cp": 2},
    "cp 4": {"attention.cp": 4, "dense.tp": 4},
    "split 2": {"attention.tp": 2, "attention.kv_split": 2},
}
PROMPT = [random.Random(11).randrange(2, 300) for _ in range(LENGTH)]


@dataclass(frozen=True)
class Long:
    """A model, and transformers' answer: ids, and the gap between the two largest logits of each."""

    path: Path
    tokens: list[int]
    gaps: list[float]
    scale: float


def write(folder: Path, family: str) -> Path:
    """A random model of `family` in fp32, with a tokenizer."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return make_tokenizer(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def long(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Long:
    path = write(tmp_path_factory.mktemp("long"), str(request.param))
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    with torch.inference_mode():
        ids = model.generate(
            torch.tensor([PROMPT]), max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    logits = torch.cat(ids.logits)
    two = logits.topk(2).values
    return Long(path, ids.sequences[0, LENGTH:].tolist(), (two[:, 0] - two[:, 1]).tolist(), float(logits.abs().max()))


@cache
def bytes_of(path: Path, tokens: int) -> int:
    """Of the cache of one rank that keeps every position of a context."""
    return tokens * Shards(open_checkpoint(path).model_config(), resolve({}, num_experts=4)).kv_bytes_per_token(0, 4)


@pytest.mark.long
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_prompt_that_one_rank_has_no_room_for(long: Long, name: str) -> None:
    """Each rank has room for its part of the context, and 2 % more."""
    owners = int(name[-1])
    limits: dict[str, Any] = {
        "dtype": "float32",
        "max_num_seqs": 2,
        "max_model_len": LENGTH + 64,
        "kv_cache_memory": bytes_of(long.path, LENGTH + 64) * 102 // (100 * owners),
    }
    with pytest.raises(ConfigError, match=r"--kv-cache-memory .* holds \d+ blocks; raise --kv-cache-memory, lower"):
        LLM(str(long.path), **limits)
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    with LLM(str(long.path), layout=LAYOUTS[name], **limits) as llm:
        (result,) = llm.generate([PROMPT], [params])
    found = list(result.outputs[0].token_ids)
    assert len(found) == TOKENS
    decided = [gap > RELATIVE_TOLERANCE[torch.float32] * long.scale for gap in long.gaps]
    undecided = decided.index(False) if False in decided else TOKENS
    assert undecided >= 2 and found[:undecided] == long.tokens[:undecided]
