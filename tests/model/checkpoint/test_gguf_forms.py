"""Forms of one model's tensors in GGUF files: each is the same model, in every layout's slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.checkpoint.gguf_files import Tensors, rewritten
from weft.base.errors import CheckpointError
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.weights.loader import load_params
from weft.parallel.arch import Shards, parse_config
from weft.parallel.arch.families.deepseek_v2 import gguf_scores
from weft.parallel.layout.resolve import resolve

DATA = Path(__file__).parents[1] / "models" / "data"
LATENT = DATA / "deepseek-v3.gguf"
LAYERS = 2


def loaded(checkpoint: Checkpoint, tp: int) -> list[dict[str, torch.Tensor]]:
    config = parse_config(checkpoint.config)
    shards = Shards(config, resolve({"attention.tp": tp}, tp, num_experts=config.num_experts))
    ranks = (load_params(checkpoint, shards.specs, shards, rank, torch.float32).params for rank in range(tp))
    return [{name: each for name, each in rank.items() if isinstance(each, torch.Tensor)} for rank in ranks]


def unsplit(tensors: Tensors) -> Tensors:
    """attn_kv_b, as files had it before attn_k_b and attn_v_b."""
    found = dict(tensors)
    for layer in range(LAYERS):
        keys, values = (found.pop(f"blk.{layer}.attn_{name}_b.weight") for name in "kv")
        both = np.concatenate((keys.transpose(0, 2, 1), values), 1)
        found[f"blk.{layer}.attn_kv_b.weight"] = both.reshape(-1, both.shape[-1])
    return found


def both_forms(tensors: Tensors) -> Tensors:
    return {**tensors, **unsplit(tensors)}


def fused(tensors: Tensors) -> Tensors:
    found = dict(tensors)
    gate, up = (found.pop(f"blk.1.ffn_{name}_exps.weight") for name in ("gate", "up"))
    return {**found, "blk.1.ffn_gate_up_exps.weight": np.concatenate((gate, up), 1)}


def further_layer(tensors: Tensors) -> Tensors:
    """As converters append layers that predict further tokens."""
    more = {name.replace("blk.1.", "blk.2."): each for name, each in tensors.items() if name.startswith("blk.1.")}
    return {**tensors, **more, "blk.2.nextn.eh_proj.weight": np.ones((32, 64), np.float32)}


@pytest.mark.parametrize("change", [unsplit, both_forms, fused])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_forms_of_one_model_are_the_same(tmp_path: Path, change: Callable[[Tensors], Tensors], tp: int) -> None:
    wanted = loaded(open_checkpoint(LATENT), tp)
    found = loaded(open_checkpoint(rewritten(LATENT, tmp_path / "m.gguf", change)), tp)
    for mine, plain in zip(found, wanted, strict=True):
        assert mine.keys() == plain.keys()
        assert all(torch.equal(mine[name], plain[name]) for name in plain)


def test_slices_of_heads_are_those_of_the_whole() -> None:
    whole = loaded(open_checkpoint(LATENT), 1)[0]
    for tp in (2, 4):
        parts = loaded(open_checkpoint(LATENT), tp)
        for layer in range(LAYERS):
            name = f"layers.{layer}.attention.kv_b.weight"
            assert torch.equal(torch.cat([rank[name] for rank in parts]), whole[name])


def test_layers_after_the_last_are_left_out(tmp_path: Path) -> None:
    keys = {"deepseek2.block_count": 3, "deepseek2.nextn_predict_layers": 1}
    checkpoint = open_checkpoint(rewritten(LATENT, tmp_path / "m.gguf", further_layer, keys))
    assert parse_config(checkpoint.config) == parse_config(open_checkpoint(LATENT).config)
    assert checkpoint.ignored and all(name.startswith("blk.2.") for name in checkpoint.ignored)
    assert checkpoint.tensors.keys() == open_checkpoint(LATENT).tensors.keys()


def test_older_keys_of_heads_are_read(tmp_path: Path) -> None:
    """Before attention was one head of latents, the lengths were a head's own."""
    lengths = {"attention.key_length": 20, "attention.value_length": 20, "attention.head_count_kv": 4}
    gone = {"attention.key_length_mla": None, "attention.value_length_mla": None}
    keys = {f"deepseek2.{key}": value for key, value in (lengths | gone).items()}
    checkpoint = open_checkpoint(rewritten(LATENT, tmp_path / "m.gguf", unsplit, keys))
    assert parse_config(checkpoint.config) == parse_config(open_checkpoint(LATENT).config)


def test_scores_of_files_that_do_not_say_them() -> None:
    assert gguf_scores({}) == gguf_scores({"block_count": 27, "vocab_size": 102400}) == 1
    assert gguf_scores({"block_count": 47, "vocab_size": 154880}) == gguf_scores({"expert_gating_func": 2}) == 2


@pytest.mark.parametrize(
    ("file", "keys", "words"),
    [
        ("qwen3moe", {"qwen3moe.expert_feed_forward_length": None}, "qwen3moe.expert_feed_forward_length: missing"),
        ("qwen3moe", {"qwen3moe.expert_count": 4}, "num_experts 4: the files hold 5 experts; legal: 5"),
        ("qwen3moe", {"qwen3moe.expert_shared_count": 1}, "qwen3moe.expert_shared_count: not known"),
        ("deepseek-v3", {"deepseek2.attention.kv_lora_rank": None}, "deepseek2.attention.kv_lora_rank: missing"),
        ("deepseek-v3", {"deepseek2.expert_gating_func": 3}, "expert_gating_func: 3 is not supported, only 2"),
        ("qwen3", {"qwen3.expert_count": 2}, "qwen3.expert_count: 2 is not supported, only 0"),
    ],
)
def test_keys_of_a_family_that_cannot_be(tmp_path: Path, file: str, keys: dict[str, int | None], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(rewritten(DATA / f"{file}.gguf", tmp_path / "m.gguf", keys=keys))
    assert any(words in line for line in caught.value.problems)


def test_a_model_of_pictures_is_read_as_its_text_part(tmp_path: Path) -> None:
    """Keys of pictures change nothing for text."""
    plain, file = DATA / "qwen3.gguf", tmp_path / "m.gguf"
    keys = {"qwen3vl.n_deepstack_layers": 3, "qwen3vl.rope.dimension_sections": [4, 2, 2, 0]}
    checkpoint = open_checkpoint(rewritten(plain, file, keys=keys, architecture="qwen3vl"))
    assert parse_config(checkpoint.config) == parse_config(open_checkpoint(plain).config)
    assert checkpoint.tensors.keys() == open_checkpoint(plain).tensors.keys()
