"""ParamSpec: one weight of a model, stated once. Loader, layers, explain and verify read it.

A spec says under which name a checkpoint holds the tensor, which runtime parameter it becomes (several tensors may be
parts of one: q, k and v), which module owns it, and which dim is divided by which cut table (see `shards`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cut(StrEnum):
    """The table that says which interval of `dim` a rank holds; NONE: every rank holds all of it."""

    NONE = "none"
    Q = "q"
    KV = "kv"
    O_IN = "o"
    INTERMEDIATE = "intermediate"
    VOCAB_IN = "vocab_in"
    VOCAB_OUT = "vocab_out"
    KV_B = "kv_b"
    EXPERT = "expert"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One tensor of a checkpoint. `part`: its place along dim 0 of `target`. `module`: attention, o_proj, dense,
    embedding, lm_head, norm, router, experts or shared_experts. `expert`: the routed expert it belongs to; such a
    tensor is held by the ranks with a slot for that expert, one part for each slot."""

    name: str
    shape: tuple[int, ...]
    module: str
    target: str
    part: int = 0
    dim: int | None = None
    cut: Cut = Cut.NONE
    expert: int | None = None
