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

from tests.model.models.test_families import LATENT, ours, prompts_for, theirs
from tests.model.models.test_matrix import model_of
from weft.base.errors import CheckpointError, ConfigError
from weft.base.settings import EngineConfig
from weft.base.step.defaults import recommended
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.plan import plan_launch

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


EIGHT: dict[str, Any] = {**LATENT, "q_lora_rank": 16, "n_routed_experts": 16}
GROUPED = {**EIGHT, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "routed_scaling_factor": 2.5}
MOE = {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def small_queries(path: Path) -> None:
    """Queries of so many random latents would make attention so sharp that float32's own rounding is seen."""
    tensors(path, lambda t: {name: x * 0.1 if "q_b_proj" in name else x for name, x in t.items()})


def deepseek_v3_without_what_its_class_has(path: Path) -> None:
    own = {"n_shared_experts": 1, "first_k_dense_replace": 3, "num_hidden_layers": 4, "q_lora_rank": 1536}
    model_of("deepseek_v3", **{**GROUPED, **own}).save_pretrained(path)
    small_queries(path)
    config(path, *own.keys() - {"num_hidden_layers"}, "n_group", "topk_group", "num_experts_per_tok",
           "routed_scaling_factor", "norm_topk_prob", "rope_interleave")  # fmt: skip


def deepseek_v2_without_what_its_class_has(path: Path) -> None:
    model_of("deepseek_v2", **{**EIGHT, "n_shared_experts": 2, "q_lora_rank": 1536}).save_pretrained(path)
    small_queries(path)
    config(path, "n_shared_experts", "q_lora_rank", "topk_method")


def no_flag_is_false(path: Path) -> None:
    model_of("deepseek_v3", **GROUPED).save_pretrained(path)
    config(path, norm_topk_prob=None, rope_interleave=None)


def fields_that_deepseek_v2_does_not_look_at(path: Path) -> None:
    model_of("deepseek_v2", **EIGHT).save_pretrained(path)
    config(path, rope_interleave=False, norm_topk_prob=True, moe_layer_freq=2, scoring_func="sigmoid")


def every_layer_dense_among_experts(path: Path) -> None:
    model_of("qwen3_moe", **MOE, mlp_only_layers=[0, 1, 2]).save_pretrained(path)


def both_words_for_experts(path: Path) -> None:
    model_of("qwen3_moe", **MOE).save_pretrained(path)
    config(path, num_experts=7, num_local_experts=4)


def the_other_word_for_experts(path: Path) -> None:
    model_of("mixtral", num_local_experts=4).save_pretrained(path)
    config(path, "num_local_experts", num_experts=4)


def an_activation_that_llama_does_not_look_at(path: Path) -> None:
    model_of("llama").save_pretrained(path)
    config(path, "hidden_act", hidden_activation="gelu")


def two_layers_that_predict_further_tokens(path: Path) -> None:
    a_layer_that_predicts_further_tokens(path)
    tensors(path, lambda t: {**t, **{k.replace("s.3.", "s.4."): x for k, x in t.items() if "layers.3." in k}})
    config(path, "num_nextn_predict_layers", num_mtp_layers=2)


def a_base_beside_the_embedding(path: Path) -> None:
    model_of("llama").save_pretrained(path)
    config(path, rope_theta=123.0)


MADE = (
    deepseek_v3_without_what_its_class_has,
    deepseek_v2_without_what_its_class_has,
    no_flag_is_false,
    fields_that_deepseek_v2_does_not_look_at,
    every_layer_dense_among_experts,
    both_words_for_experts,
    the_other_word_for_experts,
    an_activation_that_llama_does_not_look_at,
    two_layers_that_predict_further_tokens,
    a_base_beside_the_embedding,
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
@pytest.mark.parametrize(
    ("make", "note"),
    [
        (both_words_for_experts, "num_local_experts 4 counts as num_experts, as in transformers, not num_experts 7"),
        (a_base_beside_the_embedding, "rope_parameters: rope_theta 10000.0 counts; outside of it stands 123.0"),
    ],
)
def test_of_two_values_the_one_that_counts_is_said(tmp_path: Path, make: Callable[[Path], None], note: str) -> None:
    make(tmp_path)
    (said,) = (line for line in open_checkpoint(tmp_path).notes if "counts" in line)
    assert said.endswith(note)


SLIDING = ["sliding_attention"] * 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "sizes", "words", "said"),
    [
        ("llama", {}, {"sliding_window": 3}, "sliding_window 3: legal: null"),
        ("llama", {}, {"sliding_window": 3, "layer_types": SLIDING}, "sliding_window 3: legal: null"),
        ("deepseek_v3", GROUPED, {"sliding_window": 3}, "sliding_window 3: legal: null"),
        ("mistral", {}, {"sliding_window": None, "layer_types": SLIDING}, "full_attention alone, without a sliding"),
        ("mixtral", {}, {"sliding_window": None, "layer_types": SLIDING}, "only with a sliding_window"),
        ("qwen3_moe", MOE, {"decoder_sparse_step": 4}, "no layer has experts by it; the files hold 4 experts"),
    ],
)
def test_what_transformers_computes_in_two_ways_is_refused(
    tmp_path: Path, family: str, sizes: dict[str, Any], words: dict[str, Any], said: str
) -> None:
    """Such as a window that its cache has and its mask has not."""
    model_of(family, **sizes).save_pretrained(tmp_path)
    config(tmp_path, **words)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("own", [None, {}, {"temperature": 0.7}, {"eos_token_id": None}])
def test_sampling_values_and_ends_are_those_of_transformers(tmp_path: Path, own: dict[str, Any] | None) -> None:
    """But for an end that only config.json has: answers without any are of no use, so it is taken, and said."""
    model_of("llama").save_pretrained(tmp_path)
    config(tmp_path, eos_token_id=7, do_sample=True, temperature=0.3, repetition_penalty=1.5, no_repeat_ngram_size=2)
    file = tmp_path / "generation_config.json"
    file.unlink() if own is None else file.write_text(json.dumps(own))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    checkpoint = open_checkpoint(tmp_path)
    mine = recommended(checkpoint.generation_config, checkpoint.generation_path)
    assert mine.get("temperature", 1.0) == (theirs.temperature or 1.0)
    assert mine.get("repetition_penalty", 1.0) == (theirs.repetition_penalty or 1.0)
    assert checkpoint.eos_token_ids() == (7,)
    assert theirs.eos_token_id == (7 if own is None else None)
    words = ["do_sample True, repetition_penalty 1.5, temperature 0.3 count", "wants: no_repeat_ngram_size 2"]
    assert len(checkpoint.notes) == (2 if own is None else 1)
    for note, word in zip(checkpoint.notes, words if own is None else ["no eos_token_id: config.json's"], strict=True):
        assert word in note


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
