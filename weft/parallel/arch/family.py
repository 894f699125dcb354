"""ModelFamily: models with the same modules, as values: words of config.json, names of tensors, and GGUF's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        """GGUF's name of a module in `blk.<number>` -> its name in a layer."""
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
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufForm:
    """What a family's GGUF files are like. `permuted`: GGUF's modules whose rows have rotated pairs side by side.
    `windowed`: of several families with this architecture, the one whose layers have a window."""

    architecture: str
    permuted: frozenset[str] = frozenset()
    windowed: bool = False


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
