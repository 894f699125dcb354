"""Two sources of one fact, and other forms of the same model: answers are those of transformers from the same files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.models.test_families import LATENT, ours, prompts_for, theirs
from tests.models.test_matrix import model_of
from weft.checkpoint import open_checkpoint
from weft.errors import ConfigError
from weft.launch_plan.plan import plan_launch
from weft.layout.resolve import resolve
from weft.settings import EngineConfig

Tensors = dict[str, torch.Tensor]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def tensors(path: Path, change: Callable[[Tensors], Tensors]) -> None:
    file = path / "model.safetensors"
    save_file({k: v.clone() for k, v in change(load_file(file)).items()}, file, metadata={"format": "pt"})


def config(path: Path, *dropped: str, **words: Any) -> None:
    old = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({k: v for k, v in {**old, **words}.items() if k not in dropped}))


def tied_with_a_head_of_its_own(path: Path) -> None:
    model_of("llama", tie_word_embeddings=True).save_pretrained(path)
    tensors(path, lambda t: {**t, HEAD: torch.randn(t[EMBEDDING].shape, generator=torch.Generator().manual_seed(2))})


def the_one_matrix_stored_as_the_head(path: Path) -> None:
    model_of("qwen3", tie_word_embeddings=True).save_pretrained(path)
    tensors(path, lambda t: {HEAD if name == EMBEDDING else name: x for name, x in t.items()})


def a_layer_that_predicts_further_tokens(path: Path) -> None:
    model_of("deepseek_v3", **LATENT, q_lora_rank=16, n_group=4, topk_group=2).save_pretrained(path)
    own = "model.layers.3."
    more = {f"{own}eh_proj.weight": torch.ones(48, 96), f"{own}shared_head.head.weight": torch.ones(131, 48)}
    tensors(path, lambda t: {**t, **{k.replace("s.2.", "s.3."): x for k, x in t.items() if "layers.2." in k}, **more})
    config(path, num_nextn_predict_layers=1)


def scaling_added_by_hand(path: Path) -> None:
    model_of("qwen2").save_pretrained(path)
    config(path, rope_scaling=YARN)


def a_base_that_only_the_losing_spelling_has(path: Path) -> None:
    model_of("llama", rope_parameters={"rope_type": "default", "rope_theta": 77.0}).save_pretrained(path)
    config(path, rope_scaling={"rope_type": "linear", "factor": 2.0})


def trained_positions_outside(path: Path) -> None:
    """Some configs keep the trained positions beside the scaling, where they count."""
    model_of("llama").save_pretrained(path)
    config(path, "rope_parameters", rope_theta=500.0, original_max_position_embeddings=32,
           rope_scaling={"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16})  # fmt: skip


def biases_of_q_k_and_v_alone(path: Path) -> None:
    model_of("llama", attention_bias=True, mlp_bias=True).save_pretrained(path)
    tensors(path, lambda t: {k: x for k, x in t.items() if not k.endswith(("o_proj.bias", "_proj.bias") if "mlp" in k
                                                                          else "o_proj.bias")})  # fmt: skip


def windows_that_no_layer_is_named_for(path: Path) -> None:
    model_of("mistral", sliding_window=9).save_pretrained(path)
    config(path, layer_types=["full_attention"] * 3)


def a_window_that_the_config_leaves_out(path: Path) -> None:
    model_of("mixtral", num_local_experts=4, num_experts_per_tok=2).save_pretrained(path)
    config(path, "sliding_window", "rms_norm_eps", "num_experts_per_tok", "rope_parameters")


MADE = (
    tied_with_a_head_of_its_own,
    the_one_matrix_stored_as_the_head,
    a_layer_that_predicts_further_tokens,
    scaling_added_by_hand,
    a_base_that_only_the_losing_spelling_has,
    trained_positions_outside,
    biases_of_q_k_and_v_alone,
    windows_that_no_layer_is_named_for,
    a_window_that_the_config_leaves_out,
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_answers_are_those_of_transformers(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    prompts = prompts_for(3)[:2]
    with torch.inference_mode():
        wanted = [theirs(model, prompt) for prompt in prompts]
    for want, got in zip(wanted, ours(tmp_path, prompts, 1), strict=True):
        torch.testing.assert_close(torch.stack(got.logits), torch.stack(want.logits), atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_context_follows_the_scaling(tmp_path: Path) -> None:
    """YaRN's factor over the trained positions; a longer one is refused with what is legal."""
    model_of("qwen2", max_position_embeddings=32768).save_pretrained(tmp_path)
    config(tmp_path, "rope_parameters", rope_theta=1e4,
           rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})  # fmt: skip
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.model_config().context == 131072
    plan = plan_launch(checkpoint, resolve({}), EngineConfig(max_model_len=131072, kv_cache_memory=1 << 28))
    assert plan.engine.max_model_len == 131072
    with pytest.raises(ConfigError, match=r"max_model_len 131073: .* legal: 2 to 131072"):
        plan_launch(checkpoint, resolve({}), EngineConfig(max_model_len=131073))
