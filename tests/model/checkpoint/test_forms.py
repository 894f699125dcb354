"""Every form of the catalog, made by hand: what is read, what is said of it, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import make_checkpoint, make_gguf, make_tokenizer, random_weights, small_config
from weft.base.errors import CheckpointError
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.checkpoint.forms import experts
from weft.model.checkpoint.forms.catalog import checkpoint_forms
from weft.model.checkpoint.tensors import TensorInfo
from weft.model.weights.check import check_checkpoint
from weft.parallel.arch import param_specs

Tensors = dict[str, torch.Tensor]
SIZES: Any = {
    "hidden_size": 32, "intermediate_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "vocab_size": 320,
}  # fmt: skip
LATENT: Any = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "q_lora_rank": 4, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 8, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def model(path: Path, family: str = "llama", shards: int = 1, **changes: Any) -> dict[str, Any]:
    """A small model of a family in `path`; returns its config."""
    config = small_config(family if family in ("llama", "mistral", "qwen2", "qwen3") else "llama", **SIZES)
    config = {**config, **changes}
    make_checkpoint(path, config, shards=shards)
    make_tokenizer(path)
    return config


def change(path: Path, by: Callable[[Tensors], Tensors]) -> None:
    """Writes the tensors anew."""
    file = path / "model.safetensors"
    save_file({name: x.clone().contiguous() for name, x in by(load_file(file)).items()}, file)


def edit(path: Path, file: str = "config.json", **words: Any) -> None:
    """Changes fields of a JSON file; None takes one away."""
    old = json.loads((path / file).read_text()) if (path / file).exists() else {}
    (path / file).write_text(json.dumps({k: v for k, v in {**old, **words}.items() if v is not None}))


def prefixed(tensors: Tensors, by: Callable[[str], str]) -> Tensors:
    return {by(name): x for name, x in tensors.items()}


def transformers_5(path: Path) -> None:
    model(path, shards=3, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    edit(path, torch_dtype=None, dtype="float32", transformers_version="5.1.0")


def fused_experts(path: Path) -> None:
    config = model(path, num_local_experts=4, architectures=["MixtralForCausalLM"], model_type="mixtral")

    def fused(tensors: Tensors) -> Tensors:
        layer = "model.layers.{}.block_sparse_moe."
        for number in range(config["num_hidden_layers"]):
            old, new = layer.format(number), layer.format(number).replace("block_sparse_moe", "mlp")
            w1, w2, w3 = ([tensors.pop(f"{old}experts.{e}.w{n}.weight") for e in range(4)] for n in (1, 2, 3))
            tensors[f"{new}experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(w1, w3, strict=True)])
            tensors[f"{new}experts.down_proj"] = torch.stack(w2)
            tensors[f"{new}gate.weight"] = tensors.pop(f"{old}gate.weight")
        return tensors

    change(path, fused)


def variant(path: Path) -> None:
    model(path, shards=2)
    for file in list(path.glob("model*")):
        file.rename(path / file.name.replace("model", "model.fp16", 1).replace("fp16.s", "s"))
    index = path / "model.safetensors.index.json"
    text = (path / index.name).read_text() if index.exists() else ""
    for file in list(path.glob("model.fp16-*")):
        text = text.replace(file.name.replace("model.fp16", "model"), file.name)
    index.unlink()
    (path / "model.fp16.safetensors.index.json").write_text(text)


def shards_without_an_index(path: Path) -> None:
    model(path, shards=3)
    (path / "model.safetensors.index.json").unlink()


def rotary_tables(path: Path) -> None:
    model(path)
    change(path, lambda t: {**t, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})


def tied_with_a_copy(path: Path) -> None:
    model(path, tie_word_embeddings=True)
    change(path, lambda t: {**t, HEAD: t[EMBEDDING]})


def tied_with_another_head(path: Path) -> None:
    model(path, tie_word_embeddings=True)
    change(path, lambda t: {**t, HEAD: t[EMBEDDING] + 1})


def head_in_place(path: Path) -> None:
    model(path, tie_word_embeddings=True)
    change(path, lambda t: prefixed(t, lambda name: HEAD if name == EMBEDDING else name))


def base_model(path: Path) -> None:
    model(path, tie_word_embeddings=True, architectures=["LlamaModel"])
    change(path, lambda t: prefixed(t, lambda name: name.removeprefix("model.")))


def further_layers(path: Path) -> None:
    config = model(path, "deepseek", **LATENT)
    last = config["num_hidden_layers"]
    own = f"model.layers.{last}."

    def more(tensors: Tensors) -> Tensors:
        copies = {n.replace(f".{last - 1}.", f".{last}."): x for n, x in tensors.items() if f"layers.{last - 1}." in n}
        extra = {f"{own}eh_proj.weight": torch.ones(32, 64), "mtp.norm.weight": torch.ones(3)}
        return {**tensors, **copies, **extra, f"{own}shared_head.head.weight": torch.ones(320, 32)}

    change(path, more)
    edit(path, num_nextn_predict_layers=1)


def wrapper(path: Path) -> None:
    text = model(path)
    outer = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "vision_config": {"depth": 2}}
    inner = {key: value for key, value in text.items() if key != "architectures"}
    (path / "config.json").write_text(json.dumps({**outer, "text_config": inner}))
    seen = {"vision_tower.layers.0.input_layernorm.weight": torch.ones(8), "projector.weight": torch.ones(2, 2)}
    change(path, lambda t: {**prefixed(t, lambda name: f"language_model.{name}"), **seen})


def no_o_bias(path: Path) -> None:
    model(path, attention_bias=True)
    change(path, lambda t: {name: x for name, x in t.items() if not name.endswith("o_proj.bias")})


def both_spellings(path: Path) -> None:
    model(path, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    edit(path, rope_scaling={"type": "linear", "factor": 2.0})


def flags_beside(path: Path) -> None:
    model(path)
    edit(path, "tokenizer_config.json", add_bos_token=True)


def gguf(path: Path) -> None:
    make_gguf(path / "model.gguf", small_config("qwen3", **{**SIZES, "hidden_size": 32}))


def pickles(path: Path) -> None:
    model(path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def block_scales(path: Path) -> None:
    model(path)
    change(path, lambda t: {**t, "model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1, 1)})


def pointer(path: Path) -> None:
    model(path)
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def other_layers(path: Path) -> None:
    model(path)
    edit(path, num_hidden_layers=4000)


def other_index(path: Path) -> None:
    model(path, shards=2)
    index = path / "model.safetensors.index.json"
    words = json.loads(index.read_text())
    words["weight_map"].pop(EMBEDDING)
    index.write_text(json.dumps(words))


def split_gguf(path: Path) -> None:
    make_gguf(path / "model.gguf", small_config(**SIZES), part_tensors=9)


def index_beside(path: Path) -> None:
    model(path)
    words = {"weight_map": {HEAD: "model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(words))


def adapter(path: Path) -> None:
    model(path)
    (path / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def fields_not_followed(path: Path) -> None:
    model(path)
    words = {"eos_token_id": 0, "no_repeat_ngram_size": 3, "num_beams": 1, "max_new_tokens": 9, "suppress_tokens": [1]}
    (path / "generation_config.json").write_text(json.dumps(words))


def other_vocabulary(path: Path) -> None:
    model(path)
    edit(path, vocab_size=2**31 - 1)


def few_layers(path: Path) -> None:
    model(path)
    change(path, lambda t: {n: x for n, x in t.items() if "layers.0." not in n})


def fifo(path: Path) -> None:
    model(path)
    (path / "config.json").unlink()
    os.mkfifo(path / "config.json")


MADE: dict[str, tuple[Callable[[Path], object], str]] = {
    "transformers 5": (transformers_5, ""),
    "transformers 4": (lambda path: model(path, rope_scaling={"type": "linear", "factor": 2.0}), ""),
    "fused experts": (fused_experts, ""),
    "variant": (variant, ""),
    "shards without an index": (shards_without_an_index, ""),
    "rotary tables": (rotary_tables, ""),
    "tied with a copy": (tied_with_a_copy, ""),
    "tied with another head": (tied_with_another_head, "differs from the embedding"),
    "head in place of the embedding": (head_in_place, "is read as the embedding too"),
    "base model": (base_model, ""),
    "layers that predict further tokens": (further_layers, "predict further tokens are left out"),
    "text part of a wrapper": (wrapper, "outside the text model are left out: projector (1), vision_tower (1)"),
    "no bias of o_proj": (no_o_bias, "no layer has a bias of o_proj"),
    "both spellings of rotary scaling": (both_spellings, "rope_scaling counts"),
    "flags beside a post-processor": (flags_beside, "post-processor counts"),
    "index beside a file with all": (
        index_beside,
        "model.safetensors counts; model.safetensors.index.json names other",
    ),
    "adapter": (adapter, "the adapter is not applied"),
    "fields of sampling that are not followed": (
        fields_not_followed,
        "wants: no_repeat_ngram_size 3, suppress_tokens [1], max_new_tokens 9",
    ),
    "GGUF": (gguf, ""),
    "pickles": (pickles, "pytorch_model.bin is a pickle"),
    "fp8 or block scales": (block_scales, "weights in fp8, or in blocks with scales"),
    "Git LFS pointer": (pointer, "git lfs pull"),
    "other layers than the config's": (other_layers, "num_hidden_layers 4000: the files hold 2 layers; legal: 2"),
    "other rows than the vocabulary's": (
        other_vocabulary,
        "vocab_size 2147483647: the embedding has 320 rows; legal: 320",
    ),
    "layers without a tensor": (few_layers, "num_hidden_layers 2: the files hold tensors of 1 layer, none of layer 0"),
    "index that differs from the files": (other_index, f"{EMBEDDING}: not named by"),
    "split GGUF": (split_gguf, ""),
    "no regular file": (fifo, "config.json: a FIFO; a regular file is needed"),
}
"""Form -> what makes it, and words of what is said."""


def test_the_catalog_names_what_is_made_here() -> None:
    assert [form.name for form in checkpoint_forms()] == list(MADE)


def opened(path: Path) -> Checkpoint:
    """The checkpoint, whose tensors are all that the model needs."""
    place = min(path.glob("*.gguf"), default=path)
    checkpoint = open_checkpoint(place)
    check_checkpoint(checkpoint, param_specs(checkpoint.model_config()))
    return checkpoint


@pytest.mark.parametrize("form", checkpoint_forms(), ids=lambda form: form.name)
def test_each_form(tmp_path: Path, form: Any) -> None:
    make, words = MADE[form.name]
    make(tmp_path)
    if form.outcome == "refused":
        with pytest.raises(CheckpointError) as caught:
            opened(tmp_path)
        assert words in str(caught.value) and len(str(caught.value).splitlines()) <= 12
    else:
        notes = opened(tmp_path).notes
        assert any(words in note for note in notes) if form.outcome == "read as" else notes == ()


MIXTRAL: Any = {"num_local_experts": 4, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}


def one_expert(path: Path) -> None:
    """In each layer, where the config says 4,096."""
    model(path, **MIXTRAL)
    edit(path, num_hidden_layers=16, num_local_experts=4096)
    names = (f"model.layers.{layer}.block_sparse_moe.experts.4095.w1.weight" for layer in range(16))
    save_file({name: torch.ones(1) for name in names}, path / "model.safetensors")


def experts_beyond_all(path: Path) -> None:
    model(path, **MIXTRAL)
    edit(path, num_hidden_layers=4096, num_local_experts=65536)


def experts_without_bytes(path: Path) -> None:
    model(path, **MIXTRAL)
    edit(path, num_local_experts=8192)
    fused = {f"model.layers.{layer}.mlp.experts.gate_up_proj": torch.ones(8192, 2, 0) for layer in range(2)}
    save_file(fused, path / "model.safetensors")


def other_fused_experts(path: Path) -> None:
    fused_experts(path)
    edit(path, num_local_experts=5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (one_expert, "num_local_experts 4096: 16 layers of so many experts; the files hold 16 tensors"),
        (experts_beyond_all, "65536 experts in each of 4096 layers; legal: 65536 in all layers together"),
        (experts_without_bytes, "num_local_experts 8192: the files hold 0 experts; legal: 0"),
        (other_fused_experts, "num_local_experts 5: the files hold 4 experts; legal: 4"),
    ],
)
def test_experts_are_counted_before_they_are_listed(
    tmp_path: Path, make: Callable[[Path], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    split = experts._split

    def counted(*args: Any) -> list[TensorInfo]:
        found = list(split(*args))
        assert len(found) < 100
        return found

    monkeypatch.setattr(experts, "_split", counted)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path)


def test_fused_experts_are_the_same_bytes(tmp_path: Path) -> None:
    config = small_config(**SIZES, num_local_experts=4, architectures=["MixtralForCausalLM"], model_type="mixtral")
    fused_experts(tmp_path)
    wanted, checkpoint = random_weights(config), opened(tmp_path)
    for name, info in checkpoint.tensors.items():
        data = Path(info.file).read_bytes()[info.offset : info.end]
        assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.float32).view(info.shape),
                           torch.from_numpy(wanted[name])), name  # fmt: skip
