"""A small random chat model on disk: llama weights, a tokenizer of bytes, a ChatML template. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from weft.parallel.arch import param_specs, parse_config

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END = 258
"""Id of <|im_end|>, which ends an answer."""

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "vocab_size": 264,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "torch_dtype": "float32",
    "eos_token_id": END,
    "bos_token_id": 0,
}


def write_tiny_chat(directory: Path, **changes: Any) -> Path:
    """Writes config, weights and tokenizer; `changes` go into the config."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **changes}
    (directory / "config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(0)
    shapes = {spec.name: spec.shape for spec in param_specs(parse_config(config))}
    save_file(
        {name: _tensor(draw, name, shape) for name, shape in shapes.items()},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    _tokenizer().save(str(directory / "tokenizer.json"))
    names = {"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(names))
    return directory


def _tensor(draw: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    x = draw.standard_normal(shape).astype(np.float32)
    return 1 + 0.1 * x if "norm" in name else x * (2 if "embed" in name else 1) / np.float32(shape[-1] ** 0.5)


def _tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return tokenizer
