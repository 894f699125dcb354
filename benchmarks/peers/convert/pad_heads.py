"""A Llama checkpoint with more heads, the new ones all zeros: the same function, divisible by more ranks.

python pad_heads.py SOURCE TARGET KV_HEADS: every KV head keeps its number of query heads.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
import transformers
from torch import Tensor


def padded(weight: Tensor, dim: int, size: int) -> Tensor:
    """`weight` padded with zeros along `dim`, up to `size`."""
    shape = list(weight.shape)
    shape[dim] = size - shape[dim]
    return torch.cat((weight, weight.new_zeros(shape)), dim)


def main() -> None:
    source, target, kv_heads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    old = model.config
    head_dim = old.head_dim or old.hidden_size // old.num_attention_heads
    heads = kv_heads * old.num_attention_heads // old.num_key_value_heads
    size = {"q_proj": (0, heads), "k_proj": (0, kv_heads), "v_proj": (0, kv_heads), "o_proj": (1, heads)}
    state = {}
    for name, weight in model.state_dict().items():
        module = name.split(".")[-2]
        dim, count = size.get(module, (0, 0))
        state[name] = padded(weight, dim, count * head_dim) if module in size else weight
    new = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
    config = type(old).from_dict({**old.to_dict(), **new})
    wide = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    wide.load_state_dict(state)
    wide.save_pretrained(target)
    for path in source.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.copy(path, target)


if __name__ == "__main__":
    main()
