"""What a GGUF file's metadata keys and tensor names mean: a config in HF's words and tensors under HF's names.

Architectures llama (Llama, Mistral, SmolLM2), qwen2 and qwen3; any other is refused by name, and so is a key of the
architecture that is not known here, because it may change what the model computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weft.checkpoint.checkpoint import Checkpoint, Json, TokenizerSource
from weft.checkpoint.gguf_header import GgufHeader, read_gguf_header
from weft.checkpoint.gguf_rope import ROPE_FREQS, float32_decimal, rope_scaling
from weft.checkpoint.tensors import TensorInfo, raise_all

FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
REQUIRED = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
READ = {
    *REQUIRED,
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "vocab_size",
}
HARMLESS = {"rope.scaling.finetuned", "tensor_data_layout"}
OFF = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "use_parallel_residual": False,
    "pooling_type": 0,
}
"""Keys that are accepted with this one value."""
WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def open_gguf(path: Path) -> Checkpoint:
    """Checkpoint of the .gguf file `path`; CheckpointError with all that weft cannot serve in it."""
    header = read_gguf_header(path)
    config, problems = _config(header)
    raise_all(str(path), [f"{path}: {problem}" for problem in problems])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    permuted = heads if header.metadata["general.architecture"] == "llama" else {}
    tensors = (_renamed(tensor, permuted) for tensor in header.tensors if tensor.source != ROPE_FREQS)
    return Checkpoint(
        path=str(path),
        kind="gguf",
        config=config,
        tensors={tensor.name: tensor for tensor in tensors},
        tokenizer=_tokenizer(header.metadata),
        ignored=tuple(tensor.source for tensor in header.tensors if tensor.source == ROPE_FREQS),
    )


def _renamed(tensor: TensorInfo, permuted: dict[str, int]) -> TensorInfo:
    name, heads = WHOLE.get(tensor.source, tensor.source), 0
    block = BLOCK.fullmatch(tensor.source)
    if block and block[2] in LAYER:
        place = LAYER[block[2]]
        name, heads = f"model.layers.{block[1]}.{place}.{block[3]}", permuted.get(place.rpartition(".")[2], 0)
    return TensorInfo(name, tensor.shape, tensor.dtype, tensor.file, tensor.offset, tensor.nbytes, tensor.source, heads)


def _tokenizer(metadata: Json) -> TokenizerSource:
    prefix = "tokenizer.chat_template"
    templates = {
        key.removeprefix(prefix).lstrip(".") or "default": value
        for key, value in metadata.items()
        if key.startswith(prefix) and isinstance(value, str)
    }
    return TokenizerSource(
        gguf={key: value for key, value in metadata.items() if key.startswith("tokenizer.ggml.")},
        chat_templates=templates,
    )


def _config(header: GgufHeader) -> tuple[Json, list[str]]:
    """HF config of the file, and what stands against serving it."""
    arch = header.metadata.get("general.architecture")
    if arch not in FAMILIES:
        return {}, [f"architecture {arch!r} is not supported; supported: {', '.join(FAMILIES)}"]
    split = header.metadata.get("split.count", 0)
    if split > 1:
        return {}, [f"part of a model split over {split} files: join them first (gguf-split --merge)"]
    prefix = f"{arch}."
    keys = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
    sizes, problems = _sizes(prefix, keys)
    problems += _refused(prefix, keys)
    names = {tensor.source: tensor for tensor in header.tensors}
    if "token_embd.weight" not in names:
        problems.append("token_embd.weight: missing")
    if problems:
        return {}, problems
    config = {**sizes, **_switches(arch, keys, names), **_token_ids(header.metadata)}
    rope, faults = rope_scaling(prefix, keys, names.get(ROPE_FREQS), config)
    return {**config, **rope}, faults


def _sizes(prefix: str, keys: Json) -> tuple[Json, list[str]]:
    sizes: Json = {}
    problems = [f"metadata key {prefix}{key}: missing" for key in REQUIRED if key not in keys]
    for key in (*REQUIRED, "attention.head_count_kv"):
        value = keys.get(key)
        if isinstance(value, list):
            if len(set(value)) != 1:
                problems.append(f"metadata key {prefix}{key}: a size for each layer is not supported: {value}")
            value = value[0] if value else None
        if key != "attention.layer_norm_rms_epsilon" and key in keys and (not isinstance(value, int) or value < 1):
            problems.append(f"metadata key {prefix}{key}: {value!r} is not a positive integer")
        sizes[REQUIRED.get(key, "num_key_value_heads")] = value
    if problems:
        return {}, problems
    sizes["num_key_value_heads"] = sizes["num_key_value_heads"] or sizes["num_attention_heads"]
    sizes["rms_norm_eps"] = float32_decimal(sizes["rms_norm_eps"])
    whole = sizes["hidden_size"] // sizes["num_attention_heads"]
    head_dim = sizes["head_dim"] = keys.get("attention.key_length", whole)
    for key in ("attention.value_length", "rope.dimension_count"):
        if keys.get(key, head_dim) != head_dim:
            problems.append(f"metadata key {prefix}{key}: {keys[key]}; only the head size {head_dim} is supported")
    return sizes, problems


def _refused(prefix: str, keys: Json) -> Iterable[str]:
    for key, value in keys.items():
        if key in OFF and value != OFF[key]:
            yield f"metadata key {prefix}{key}: {value!r} is not supported, only {OFF[key]!r}"
        elif key not in READ and key not in HARMLESS and key not in OFF:
            yield f"metadata key {prefix}{key}: not known, and it may change the model"


def _switches(arch: str, keys: Json, names: dict[str, TensorInfo]) -> Json:
    model, window = FAMILIES[arch], keys.get("attention.sliding_window")
    if window and arch == "llama":
        model = "MistralForCausalLM"  # the family of GGUF's llama architecture that has windows
    return {
        "architectures": [model],
        "model_type": "mistral" if model.startswith("Mistral") else arch,
        "hidden_act": "silu",
        "vocab_size": names["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "sliding_window": window or None,
        "use_sliding_window": bool(window),
        "max_window_layers": 0,
        "torch_dtype": _dtype(names),
    }


def _dtype(names: dict[str, TensorInfo]) -> str:
    """The dtype to compute in: that of the weights where they are plain, bfloat16 where they are quantized."""
    plain = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    matrices = {plain.get(tensor.dtype, "bfloat16") for tensor in names.values() if len(tensor.shape) > 1}
    return matrices.pop() if len(matrices) == 1 else "bfloat16"


def _token_ids(metadata: Json) -> Json:
    def get(name: str) -> Any:
        return metadata.get(f"tokenizer.ggml.{name}_token_id")

    ends = sorted({value for value in (get("eos"), get("eot"), get("eom")) if value is not None})
    return {"bos_token_id": get("bos"), "pad_token_id": get("padding"), "eos_token_id": ends}
