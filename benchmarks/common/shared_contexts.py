"""Decode at long contexts by two ranks that copy the KV cache, or share it by position (kv_split, cp).

Random models in bf16, one with latents and one with a single KV head. Tokens a second of one stream after each context,
by the ranks of `LAYOUTS`; how many tokens of a context fit into a GiB of each rank; and which share of the ids that
requests have in common with earlier ones comes out of the prefix cache.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.common.offline_engine import Watched, watched
from benchmarks.common.timing import quantile
from weft.base.settings import EngineConfig
from weft.parallel.arch import param_specs, parse_config
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.resolve import resolve

SIZES: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "vocab_size": 4096,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "one KV head": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_key_value_heads": 1,
        "head_dim": 64,
    },
    "latents": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "num_key_value_heads": 8,
        "q_lora_rank": 256,
        "kv_lora_rank": 256,
        "qk_rope_head_dim": 32,
        "qk_nope_head_dim": 64,
        "v_head_dim": 64,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 512,
        "first_k_dense_replace": 1,
    },
}
LAYOUTS: dict[str, dict[str, object]] = {
    "tp 2, kv_split 1": {"attention.tp": 2},
    "tp 2, kv_split 2": {"attention.tp": 2, "attention.kv_split": 2},
    "cp 2": {"attention.cp": 2, "dense.tp": 2, "o_proj.tp": 2, "lm_head.tp": 2, "embedding.tp": 2},
}
COMMON = (20, 70, 150, 300, 600)
"""Ids that a request has in common with one before it."""
GIB = 1 << 30
TOKENS, LAYERS = 32, 2
"""Of an answer, and of a model."""


def write(folder: Path, sizes: dict[str, Any]) -> Path:
    """A random model."""
    config = {**SIZES, **sizes}
    draw = np.random.default_rng(0)
    weights = {}
    for spec in param_specs(parse_config(config)):
        x = torch.from_numpy(draw.standard_normal(spec.shape, np.float32))
        weights[spec.name] = (1 + 0.1 * x if "norm" in spec.name else x / spec.shape[-1] ** 0.5).bfloat16()
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def decoded(engine: Watched, prompt: list[int], tokens: int, rounds: int) -> dict[str, float]:
    """Of one stream after `prompt`: seconds to its first token, and tokens a second after that, in several rounds."""
    rates, first = [], 0.0
    for round_ in range(rounds):
        name, began = f"{len(prompt)}.{round_}", time.perf_counter()
        engine.add(name, prompt, tokens)
        engine.finish()
        came = engine.came[name]
        first = first or came[0] - began
        rates.append((len(came) - 1) / (came[-1] - came[0]))
    return {"first_token_s": round(first, 2), "tokens_per_s": round(quantile(rates, 0.5), 2)}


def hit_rate(engine: Watched) -> float:
    """Of the ids in common, the share that the cache gives."""
    for number, length in enumerate(COMMON):
        for request in range(2):
            beginning, rest = engine.prompt(1000 + number, length), engine.prompt(2000 + 2 * number + request, 40)
            engine.add(f"common {number}.{request}", beginning + rest, 1)
            engine.finish()
    return round(sum(engine.cached[f"common {number}.1"] for number in range(len(COMMON))) / sum(COMMON), 3)


def measure(path: Path, layout: dict[str, object], contexts: list[int], tokens: int, rounds: int) -> dict[str, Any]:
    """Of one model and layout."""
    settings = EngineConfig(dtype="bfloat16", max_num_seqs=4, max_model_len=max(2048, *contexts) + tokens)
    config = parse_config(json.loads((path / "config.json").read_text()))
    resolved = resolve(layout, num_experts=config.num_experts)
    shards = Shards(config, resolved)
    found: dict[str, Any] = {}
    with watched(str(path), 1, settings, resolved) as engine:
        found["hit_rate"] = hit_rate(engine)
        for context in sorted(contexts):
            found[f"{context:,} tokens"] = decoded(engine, engine.prompt(7, context), tokens, rounds)
    found["tokens_per_gib"] = GIB // max(shards.kv_bytes_per_token(rank, 2) for rank in range(shards.layout.world))
    return found


def by_layout(contexts: list[int], rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each case's name, and its figures."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, sizes) in enumerate(MODELS.items()):
            path = write(Path(folder) / str(number), {**sizes, "num_hidden_layers": LAYERS})
            for layout, given in LAYOUTS.items():
                yield f"{name}, {layout}", measure(path, given, contexts, TOKENS, rounds)
