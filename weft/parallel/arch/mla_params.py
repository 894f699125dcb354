"""The weights of multi-head latent attention: latents whole, what unfolds them divided by head."""

from __future__ import annotations

from collections.abc import Iterator

from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import TensorNames
from weft.parallel.arch.spec import Cut, ParamSpec


def mla_specs(c: ModelConfig, names: TensorNames, src: str, dst: str) -> Iterator[ParamSpec]:
    """One layer's attention without o_proj; `src`, `dst`: prefixes of checkpoint and runtime names.

    The latents' tensors have DeepSeek's names in every family, and `names` is not asked."""
    mla, hidden = c.mla, c.hidden_size
    assert mla is not None
    q_rows, kv_rows = c.num_heads * mla.qk_dim, c.num_heads * (mla.nope_dim + mla.v_dim)
    if mla.q_lora_rank:
        shape = (mla.q_lora_rank, hidden)
        yield ParamSpec(f"{src}.q_a_proj.weight", shape, "attention", f"{dst}.q_a.weight")
        yield ParamSpec(f"{src}.q_a_layernorm.weight", shape[:1], "attention", f"{dst}.q_a_norm.weight")
        shape = (q_rows, mla.q_lora_rank)
        yield ParamSpec(f"{src}.q_b_proj.weight", shape, "attention", f"{dst}.q_b.weight", 0, 0, Cut.Q)
    else:
        yield ParamSpec(f"{src}.q_proj.weight", (q_rows, hidden), "attention", f"{dst}.q_b.weight", 0, 0, Cut.Q)
    shape = (mla.latent_dim, hidden)
    yield ParamSpec(f"{src}.kv_a_proj_with_mqa.weight", shape, "attention", f"{dst}.kv_a.weight")
    yield ParamSpec(f"{src}.kv_a_layernorm.weight", (mla.kv_lora_rank,), "attention", f"{dst}.kv_a_norm.weight")
    shape = (kv_rows, mla.kv_lora_rank)
    yield ParamSpec(f"{src}.kv_b_proj.weight", shape, "attention", f"{dst}.kv_b.weight", 0, 0, Cut.KV_B)
