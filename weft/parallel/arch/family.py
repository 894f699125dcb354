"""ModelFamily: models with the same modules, as values: words of config.json, names of tensors, and GGUF's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorNames:
    """Names of a checkpoint's modules; `layer` takes the layer's number. Tensors are `<module>.weight` and `.bias`."""

    embedding: str = "model.embed_tokens"
    layer: str = "model.layers.{}"
    norm: str = "model.norm"
    lm_head: str = "lm_head"
    attention_norm: str = "input_layernorm"
    attention: str = "self_attn"
    qkv: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj")
    qk_norms: tuple[str, str] = ("q_norm", "k_norm")
    o_proj: str = "o_proj"
    dense_norm: str = "post_attention_layernorm"
    dense: str = "mlp"
    gate_up: tuple[str, str] = ("gate_proj", "up_proj")
    down: str = "down_proj"
    experts: str = "mlp"
    """The module that holds the router, `experts.<number>` and the shared experts."""
    router: str = "gate"
    expert_gate_up: tuple[str, str] = ("gate_proj", "up_proj")
    expert_down: str = "down_proj"
    shared_experts: str = "shared_experts"
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modules of a layer whose tensors hold, one below the other, those of several."""

    @property
    def of_gguf(self) -> dict[str, str]:
        """GGUF's name of a tensor outside the layers -> its name in safetensors."""
        return {
            "token_embd.weight": f"{self.embedding}.weight",
            "output_norm.weight": f"{self.norm}.weight",
            "output.weight": f"{self.lm_head}.weight",
        }

    @property
    def of_gguf_layer(self) -> dict[str, str]:
        """GGUF's name of a module, or of a tensor, in `blk.<number>` -> its name in a layer."""
        q, k, v = (f"{self.attention}.{name}" for name in self.qkv)
        q_norm, k_norm = (f"{self.attention}.{name}" for name in self.qk_norms)
        gate, up = (f"{self.dense}.{name}" for name in self.gate_up)
        return {
            "attn_norm": self.attention_norm,
            "attn_q": q,
            "attn_k": k,
            "attn_v": v,
            "attn_q_norm": q_norm,
            "attn_k_norm": k_norm,
            "attn_output": f"{self.attention}.{self.o_proj}",
            "ffn_norm": self.dense_norm,
            "ffn_gate": gate,
            "ffn_up": up,
            "ffn_down": f"{self.dense}.{self.down}",
            "ffn_gate_inp": f"{self.experts}.{self.router}",
            "exp_probs_b.bias": f"{self.experts}.{self.router}.e_score_correction_bias",
            "ffn_gate_shexp": f"{self.experts}.{self.shared_experts}.{self.gate_up[0]}",
            "ffn_up_shexp": f"{self.experts}.{self.shared_experts}.{self.gate_up[1]}",
            "ffn_down_shexp": f"{self.experts}.{self.shared_experts}.{self.down}",
        }

    @property
    def of_gguf_experts(self) -> dict[str, tuple[str, ...]]:
        """GGUF's name of a module with all experts of a layer -> the names of an expert's modules, whose rows follow
        one another."""
        gate, up = self.expert_gate_up
        return {
            "ffn_gate_exps": (gate,),
            "ffn_up_exps": (up,),
            "ffn_gate_up_exps": (gate, up),
            "ffn_down_exps": (self.expert_down,),
        }


Json = Mapping[str, Any]


def _always(keys: Json) -> bool:
    return True


def _no_words(keys: Json, tensors: Collection[str]) -> Json:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufForm:
    """What a family's GGUF files are like, beside what all of them have (`weft/model/checkpoint/gguf/keys.toml`). Keys
    are those of the metadata without the architecture before them."""

    architecture: str
    also: tuple[str, ...] = ()
    """Further architectures whose text models are this family."""
    chosen: Callable[[Json], bool] = _always
    """Whether a file with these keys is this family's, where several have its architecture."""
    permuted: frozenset[str] = frozenset()
    """GGUF's modules whose rows have rotated pairs side by side."""
    keys: Mapping[str, tuple[str, type]] = field(default_factory=dict)
    """A key -> config.json's word for it, and its type. One whose word is not in `fixed` must be there."""
    fixed: Json = field(default_factory=dict)
    """What a missing key means, and config.json's words that no key stands for."""
    words: Callable[[Json, Collection[str]], Json] = _no_words
    """Words of config.json that follow from several keys, or from the names of the tensors that are there."""
    only: Json = field(default_factory=dict)
    """Keys that are accepted with one value."""
    unused: frozenset[str] = frozenset()
    """Keys that change nothing in what is computed for text."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """GGUF's name of a module, or of a tensor, in `blk.<number>` -> its name in a layer, beside those of
    `TensorNames.of_gguf_layer`."""


def gguf_rotary_share(keys: Json) -> dict[str, Any]:
    """`partial_rotary_factor`, from the number of dims that are rotated."""
    whole = keys.get("attention.key_length", keys["embedding_length"] // keys["attention.head_count"])
    return {"partial_rotary_factor": keys.get("rope.dimension_count", whole) / whole}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFamily:
    """`name`: config.json's model_type. `architectures`: config.json's words; the first is what GGUF files stand for.
    `config` reads a config.json, the block's description included. `gguf`: None where no GGUF file is read."""

    name: str
    architectures: tuple[str, ...]
    config: Callable[[Fields], ModelConfig]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What a config.json without a field means, as in transformers' class of the family."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """A field -> config.json's words for it, the one that counts first, as transformers maps attributes."""
    names: TensorNames = TensorNames()
    gguf: GgufForm | None = None

    def completed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json's `values`, each field by its one word and with what a missing one means."""
        said = {key: word for key in self.words if (word := self.word(key, values)) is not None}
        return {**self.defaults, **values, **{key: values[word] for key, word in said.items()}}

    def word(self, key: str, values: Mapping[str, Any]) -> str | None:
        """The word under which `values` have the field `key`; None: under none."""
        return next((word for word in self.words.get(key, (key,)) if values.get(word) is not None), None)
