"""BaseAttention: queries over a paged cache, at once or in parts; kinds of attention differ in how they make queries.

Where ranks share the KV cache of a request by position, a layer attends for the heads of several ranks over the keys of
its own cache, and merges what others found for its heads. Which ranks these are is not known here.
Shapes: N rows, A query heads, D dims of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from weft.compute.ops.attention import AttentionSpec, KVCache
from weft.compute.ops.interface import Ops
from weft.parallel.layout.splits import HeadShare


class BaseAttention:
    """Base of kinds of attention."""

    def __init__(
        self,
        ops: Ops,
        device: torch.device,
        share: HeadShare,
        attends: HeadShare | None,
        spec_of: Callable[[HeadShare], AttentionSpec],
    ) -> None:
        """`share`: its own heads; `attends`: those, of several ranks, that it attends for over its own keys; None: its
        own."""

        def taken(heads: HeadShare) -> AttentionSpec:
            return ops.attention_backend.taken(spec_of(heads), ops.numerics.dtype, device)

        self.ops, self.own_heads = ops, share.q[1] - share.q[0]
        self.own_spec = taken(share)
        self.spec = self.own_spec if attends in (None, share) else taken(attends)

    def attend(self, q: Tensor, prepared: Any, cache: KVCache) -> Tensor:
        """[N, A, D] -> what o_proj takes, [N, A * value dim]; `prepared`: of these rows, which may be some of those
        that have keys."""
        return self._values(self.ops.attention(q, cache, prepared, self.spec))

    def attend_partly(self, q: Tensor, prepared: Any, cache: KVCache, *, own: bool = False) -> Tensor:
        """Queries [N, A, D] of all heads that it attends for, or with `own` of its own -> their partial output over the
        keys in `cache`."""
        return self.ops.partial_attention(q, cache, prepared, self.own_spec if own else self.spec)

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        """Partial outputs of its own heads, in the owners' order -> what `attend` gives."""
        return self._values(self.ops.merged(parts, self.own_heads))

    def _values(self, found: Tensor) -> Tensor:
        """Turns what attention found, [N, A * D], into values."""
        return found
