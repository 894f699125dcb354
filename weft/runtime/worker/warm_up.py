"""What a rank's warm-up looks at, and how it fails."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from weft.base.errors import ConfigError
from weft.model.layers import Params

VOCABULARY_PART = 8192


def linear_weights(params: Params, device: torch.device) -> Iterator[Tensor]:
    """What the layers multiply by; of the vocabulary, where the rank has some, a part on a CPU, whose products are
    alike in every part."""
    for name, param in params.items():
        if name.startswith("layers.") and isinstance(param, Tensor):
            yield param
    head = params.get("lm_head.weight")
    if isinstance(head, Tensor):
        yield head[:VOCABULARY_PART] if device.type == "cpu" else head


def not_captured(error: RuntimeError) -> ConfigError:
    """The error for steps that cannot be captured."""
    why = (str(error) or type(error).__name__).splitlines()[0]
    change = "give --enforce-eager, or leave them memory by a smaller --kv-cache-memory or --mem-fraction-static"
    return ConfigError(f"steps cannot be captured as CUDA graphs: {why}; {change}", field="enforce_eager")
