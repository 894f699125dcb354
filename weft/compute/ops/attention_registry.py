"""The attention backends by name, and which of them operations use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from weft.base.errors import ConfigError
from weft.compute.ops.attention import AttentionBackend
from weft.compute.ops.interface import Ops
from weft.compute.ops.reference.paged_attention import TorchAttention

Backends = Mapping[str, Callable[[Ops], AttentionBackend[Any]]]
"""What makes a backend for operations, by its name."""
BACKENDS: Backends = {"torch": lambda ops: TorchAttention()}
"""Those that any operations can use. The operations of C++, of CUDA devices and of the exact model bring their own."""


def choose_attention(
    wanted: str, ops: Ops, backends: Backends = BACKENDS, *, partial: bool = False
) -> AttentionBackend[Any]:
    """The backend named `wanted`; with `auto` the one that the operations bring, or where `partial` outputs are needed
    and it gives none, torch's. ConfigError: an unknown name."""
    own = ops.attention_backend
    if wanted == "auto" and partial and not own.gives_partial:
        wanted = TorchAttention.name
    if wanted in ("auto", own.name):
        return own
    if wanted in backends:
        return backends[wanted](ops)
    legal = ("auto", *dict.fromkeys((own.name, *backends)))
    message = f"attention backend {wanted}: legal with operations of {ops.name}: {', '.join(legal)}"
    raise ConfigError(message, field="attention", value=wanted, legal=legal)
