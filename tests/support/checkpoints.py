"""Small random models on disk: safetensors (whole or sharded), GGUF in each number format, tokenizers.

The same config and seed give the same weights in every form (as far as the number format can hold them), so one form
can be the answer key of another.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from weft.model.checkpoint import embedded_model
from weft.parallel.arch import param_specs, parse_config

Array = npt.NDArray[np.float32]
Raw = npt.NDArray[np.uint8]
Config = dict[str, Any]
READER = gguf.GGUFReader

SIZES: Config = {
    "hidden_size": 288,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "vocab_size": 307,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 0,
}
FAMILIES: dict[str, Config] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral"},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
}
SCALES = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0", "IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), (0,)),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
"""Where the fp16 numbers of a block lie, in bytes."""
GGUF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TEXT = (
    "The quick brown fox jumps over the lazy dog. Weights 12345, 3.14159 and 2^10 = 1024!\n\n"
    "Größe, café, naïve — “quotes” … 日本語のテキスト 한국어 текст עברית العربية हिन्दी "
    "🙂👩‍👩‍👧 🇩🇪\t\tdef f(x):\n    return x+1\n"
)


@functools.cache
def smollm2() -> Path:
    """The embedded model, fetched by the product's own code (once: it stays in the cache)."""
    return embedded_model(print)


def small_config(family: str = "llama", **changes: Any) -> Config:
    """A config.json of `family`: 9 heads over 3 KV heads, odd sizes; `changes` win."""
    return {**SIZES, **FAMILIES[family], **changes}


def random_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, Array]:
    """fp32 weights under HF names: norms near 1, matrices scaled so that activations stay near 1."""
    draw = np.random.default_rng(seed)
    shapes = {spec.name: spec.shape for spec in param_specs(parse_config(config))}
    weights: dict[str, Array] = {}
    for name, shape in sorted(shapes.items()):
        x = draw.standard_normal(shape).astype(np.float32)
        weights[name] = 1 + np.float32(0.1) * x if "norm" in name else x / np.float32(shape[-1] ** 0.5)
    return weights


def make_checkpoint(
    directory: Path, config: Mapping[str, Any], *, seed: int = 0, shards: int = 1, dtype: str = "float32"
) -> Path:
    """Writes config.json and safetensors with random weights; `shards` > 1 writes an index and that many files."""
    weights = {name: torch.from_numpy(x).to(getattr(torch, dtype)) for name, x in random_weights(config, seed).items()}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**config, "torch_dtype": dtype}))
    write_safetensors(directory, weights, shards)
    return directory


def write_safetensors(directory: Path, weights: Mapping[str, torch.Tensor], shards: int = 1) -> None:
    """`weights` as model.safetensors, or spread over `shards` files with an index."""
    if shards == 1:
        save_file(dict(weights), directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    where: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        own = names[shard::shards]
        save_file({name: weights[name] for name in own}, directory / file, metadata={"format": "pt"})
        where |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": where}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def trained_tokenizer(vocab_size: int = 300, specials: tuple[str, ...] = ("<|end|>", "<|start|>")) -> Tokenizer:
    """A byte-level BPE tokenizer trained on TEXT; the special tokens come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(text, special=True) for text in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return tokenizer


def make_tokenizer(directory: Path, *, vocab_size: int = 300, **config: Any) -> Path:
    """Writes tokenizer.json and tokenizer_config.json (with `config`, e.g. chat_template=...) into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    trained_tokenizer(vocab_size).save(str(directory / "tokenizer.json"))
    settings = {
        "eos_token": "<|end|>",
        "bos_token": "<|start|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        **config,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def make_gguf(
    path: Path,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    qtype: str = "F32",
    tokenizer: Tokenizer | None = None,
    pre: str = "gpt-2",
    metadata: Mapping[str, Any] | None = None,
    part_tensors: int = 0,
) -> Path:
    """Writes a GGUF of the same weights as make_checkpoint's, matrices in format `qtype`, vectors in F32.

    Formats that the gguf package cannot write get random blocks instead. tokenizer: byte-level, its vocabulary
    goes into the metadata. metadata: further keys (str, bool, int, float), e.g. tokenizer.chat_template. part_tensors:
    in parts of so many tensors each, of which the first is returned.
    """
    family = str(config["model_type"])
    arch = "llama" if family == "mistral" else family
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=part_tensors)
    _write_sizes(writer, config)
    if tokenizer is not None:
        _write_vocabulary(writer, tokenizer, pre, config)
    for key, value in (metadata or {}).items():
        _write_key(writer, key, value)
    draw = np.random.default_rng(seed + 1)
    for name, x in random_weights(config, seed).items():
        x = _permuted(name, x, config) if arch == "llama" else x
        kind = gguf.GGMLQuantizationType[qtype if x.ndim > 1 else "F32"]
        writer.add_tensor(gguf_name(name), _encoded(x, kind, draw), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if part_tensors else path


def gguf_name(name: str) -> str:
    """GGUF's name of the tensor that HF calls `name`."""
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, kind = name.rpartition(".")
    if stem in whole:
        return f"{whole[stem]}.{kind}"
    _, _, layer, place = stem.split(".", 3)
    return f"blk.{layer}.{GGUF_LAYER[place]}.{kind}"


def gguf_weights(path: Path, config: Mapping[str, Any], names: Collection[str] | None = None) -> dict[str, Array]:
    """Tensors of a GGUF (None: all) under HF names, whole, by the gguf package's reader and dequantizer."""
    stored = {tensor.name: tensor for tensor in package_reader(path).tensors}
    found = {}
    for name in names or {spec.name for spec in param_specs(parse_config(config))}:
        tensor = stored[gguf_name(name)]
        x = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1].tolist())
        found[name] = _unpermuted(name, x, config) if config["model_type"] in ("llama", "mistral") else x
    return found


@functools.cache
def _embedded_reader() -> gguf.GGUFReader:
    return READER(smollm2())


def package_reader(path: Path) -> gguf.GGUFReader:
    """The gguf package's reader; it takes seconds for the embedded model, so once for all that look at that."""
    return _embedded_reader() if path == smollm2() else READER(path)


@contextmanager
def read_once() -> Iterator[None]:
    """transformers reads a GGUF twice, and makes the same table of names for every module of a model: here once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
        patch.setattr(gguf, "GGUFReader", lambda path: package_reader(Path(path)))
        yield


def random_blocks(qtype: str, rows: int, columns: int, draw: np.random.Generator) -> Raw:
    """Random quantized rows: every bit pattern in the quants, finite scales. uint8 [rows, bytes of a row]."""
    block, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[qtype]]
    blocks = draw.integers(0, 256, (rows * columns // block, nbytes), dtype=np.uint8)
    for at in SCALES.get(qtype, ()):
        blocks[:, at : at + 2] = _halves(len(blocks), draw).view(np.uint8)
    if qtype == "IQ1_M":  # its scale is the highest bits of four words
        words = blocks[:, 48:].view(np.uint16)
        parts = _halves(len(blocks), draw).view(np.uint16) >> np.array([0, 4, 8, 12], np.uint16) << np.uint16(12)
        words[:] = words & 0xFFF | parts
    if qtype == "MXFP4":
        blocks[:, 0] = draw.integers(100, 128, len(blocks))
    if qtype == "NVFP4":
        blocks[:, :4] &= 0x5F
    return blocks.reshape(rows, columns // block * nbytes)


def _halves(rows: int, draw: np.random.Generator) -> npt.NDArray[np.float16]:
    return (draw.normal(size=(rows, 1)) / 64).astype(np.float16)


def _encoded(x: Array, kind: gguf.GGMLQuantizationType, draw: np.random.Generator) -> npt.NDArray[Any]:
    try:
        return gguf.quants.quantize(x, kind)
    except NotImplementedError:
        return random_blocks(kind.name, x.shape[0], x.shape[1], draw)


def _heads(name: str, config: Mapping[str, Any]) -> int:
    """Heads whose rows GGUF's llama architecture reorders in tensor `name`; 0: none."""
    if ".q_proj." in name:
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if ".k_proj." in name else 0


def _permuted(name: str, x: Array, config: Mapping[str, Any]) -> Array:
    heads = _heads(name, config)
    return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape) if heads else x


def _unpermuted(name: str, x: Array, config: Mapping[str, Any]) -> Array:
    heads = _heads(name, config)
    return x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape) if heads else x


def _write_sizes(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])


def _write_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer, pre: str, config: Mapping[str, Any]) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    added = tokenizer.get_added_tokens_decoder()
    tokens = [str(tokenizer.id_to_token(id)) for id in range(tokenizer.get_vocab_size())]
    kinds = [(3 if added[id].special else 4) if id in added else 1 for id in range(len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def _write_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds: dict[type, Any] = {
        str: writer.add_string,
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
    }
    kinds.get(type(value), writer.add_array)(key, value)
