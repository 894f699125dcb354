"""What the machine allows: bounds on tokens per second, from bandwidth and product rate measured beside a figure.

Decode reads every weight (the head once) and the keys and values of the context for each token. Prefill is products:
twice the weights of the layers per token, and the causal half of attention; the head only sees the last token. A step
of many streams takes the longer of reading and computing, and the bound of a whole batch adds its prefill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.cases import Case

WEIGHT_BYTES = {"bf16": 2.0, "int8": 1.0, "int4": 0.5 + 2 / 32}
"""Per weight; int4 with a two-byte scale for every 32."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a dense decoder with gated MLP."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int

    @property
    def layer_weights(self) -> int:
        """Weights of all layers."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights of the head."""
        return self.hidden * self.vocabulary

    @property
    def kv_bytes(self) -> int:
        """Of a token's keys and values in bf16."""
        return self.layers * 2 * self.kv_heads * self.head_dim * 2

    def step_bytes(self, dtype: str, streams: int, context: float) -> float:
        """Read for one token of each stream."""
        return WEIGHT_BYTES[dtype] * (self.layer_weights + self.head_weights) + streams * context * self.kv_bytes

    def step_flop(self, streams: int, context: float) -> float:
        """Computed for one token of each stream."""
        attention = 4 * self.layers * self.heads * self.head_dim * context
        return streams * (2 * (self.layer_weights + self.head_weights) + attention)

    def prefill_flop(self, tokens: int) -> float:
        """Computed for a prompt."""
        attention = 2 * self.layers * self.heads * self.head_dim * tokens**2
        return 2 * self.layer_weights * tokens + attention + 2 * self.head_weights


def read_shape(config: Path) -> Shape:
    """From a config.json."""
    words = json.loads(config.read_text())
    head_dim = words.get("head_dim") or words["hidden_size"] // words["num_attention_heads"]
    return Shape(
        layers=words["num_hidden_layers"],
        hidden=words["hidden_size"],
        heads=words["num_attention_heads"],
        kv_heads=words["num_key_value_heads"],
        head_dim=head_dim,
        intermediate=words["intermediate_size"],
        vocabulary=words["vocab_size"],
    )


def bound(shape: Shape, case: Case, quantity: str, dtype: str, state: Mapping[str, float]) -> float | None:
    """Tokens per second of `quantity` (as in cases.figures) in the machine's `state`; None where the machine's product
    rate is not known. `quantity` output counts the prefill's time."""
    bandwidth, rate = state["gb_per_s"] * 1e9, state["gflop_per_s"] * 1e9
    context = case.prompt + case.new / 2
    read_s = shape.step_bytes(dtype, case.streams, context) / bandwidth
    if quantity == "decode":
        return 1 / read_s
    if not rate:
        return None
    prefill_s = case.streams * shape.prefill_flop(case.prompt) / rate
    if quantity == "prefill":
        return case.prompt / prefill_s
    step_s = max(read_s, shape.step_flop(case.streams, context) / rate)
    return case.streams * case.new / (prefill_s + (case.new - 1) * step_s)
