"""BlockSpec: what a family's decoder layers compute, as values. Lists what weft runs of them; numbers and words only.

The values cover more than weft runs, so that a family is described by its file alone. `refuse_not_run` is the one
place that says which of them have an operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weft.base.errors import ConfigError

Rope = Literal["global", "local", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """One description for all layers; a tuple has a value for each layer, and empty means the default everywhere."""

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    expert_bias: bool = False
    qk_norm: Literal["none", "head", "row"] = "none"
    """RMSNorm of q and k. head: over each head's dims, one weight [head dim]; row: over the dims of all heads."""
    windows: tuple[int, ...] = ()
    """Number of latest keys that each layer sees; 0: all."""
    softmax_scale: float | None = None
    """Factor of q . k before the softmax; None: 1 / sqrt(dims of a query head)."""
    softmax_cap: float = 0.0
    """c of c * tanh(scores / c); 0: none."""
    sinks: bool = False
    """A learned logit for each head that joins the softmax and has no value (gpt-oss)."""
    ropes: tuple[Rope, ...] = ()
    """Which rotary embedding each layer has: the config's, one of its own for layers with a window, or none."""
    rotary_share: float = 1.0
    """Share of a head's dims that is rotated: the first ones."""
    rope_interleaved: bool = False
    """Whether rotated pairs stand side by side in the checkpoint's rows of q and k (else half of them apart)."""
    query_growth: tuple[float, int] | None = None
    """(b, P): rotated q is multiplied by 1 + b * log(1 + floor(position / P)); None: by nothing."""
    activation: str = "silu"
    """f of down(f(gate) * up)."""
    activation_limit: float = 0.0
    """Largest magnitude of gate and up before the activation; 0: none."""
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    """Added to a norm's weight (Gemma: 1)."""
    norm_before: bool = True
    """Norms of what attention and MLP read."""
    norm_after: bool = False
    """Norms of what attention and MLP give, before it is added to the residual stream."""
    parallel: bool = False
    """Whether attention and MLP read the same rows of the residual stream."""
    residual_scale: float = 1.0
    """Factor of what attention and MLP add to the residual stream."""
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float = 0.0
    """c of c * tanh(logits / c); 0: none."""


_RUN: dict[str, tuple[object, ...]] = {
    "expert_bias": (False,),
    "qk_norm": ("none", "head"),
    "softmax_cap": (0.0,),
    "sinks": (False,),
    "activation": ("silu",),
    "activation_limit": (0.0,),
    "norm": ("rms",),
    "norm_offset": (0.0,),
    "norm_before": (True,),
    "norm_after": (False,),
    "parallel": (False,),
    "residual_scale": (1.0,),
    "embedding_scale": (1.0,),
    "logit_scale": (1.0,),
    "logit_cap": (0.0,),
}
"""Values that have an operation. A field without a line runs with every value of its type."""
_WORDS = {"activation": "hidden_act"}
"""Fields that config.json calls otherwise in every family."""


_RUN_LATENT: dict[str, tuple[object, ...]] = {
    "qkv_bias": (False,),
    "qk_norm": ("none",),
    "softmax_scale": (None,),
    "ropes": ((),),
    "rotary_share": (1.0,),
    "rope_interleaved": (False,),
    "query_growth": (None,),
}
"""The same where latent attention has less."""


def refuse_not_run(block: BlockSpec, *, latent: bool) -> None:
    """ConfigError naming the first value that no operation computes. `latent`: the layers have latent attention."""
    for name, legal in (_RUN | _RUN_LATENT if latent else _RUN).items():
        value = getattr(block, name)
        if value not in legal:
            word = _WORDS.get(name, name)
            shown = " and ".join(map(str, legal))
            raise ConfigError(f"{word} {value}: only {shown} is supported", field=word, value=value, legal=legal)
