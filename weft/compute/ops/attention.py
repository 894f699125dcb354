"""The seam of attention: a backend reads queries and a paged cache, and gives the output or a part of it.

Shapes: N rows, A query heads on this rank, K KV heads on this rank, D head dim, B blocks, S block size, R runs.

A **partial** output is over some of a row's keys. It is one tensor [N, A * (D + 2)] in fp32 (fp64 for fp64), for each
head D sums of exp(score - level) * value, not yet divided; the level, which is the largest score; and the sum of
exp(score - level). `merge` adds partial outputs up and divides once, at the end (online softmax, Milakov and
Gimelshein 2018). A row without keys has level -inf and sums of 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from weft.base.errors import WeftError

Prepared = TypeVar("Prepared")
"""What a backend needs of a step's rows."""


@dataclass(frozen=True, slots=True)
class KeyShare:
    """Which keys of a request a cache has, for a partial output: of its KV blocks those with a number b where b mod
    `owners` is `owner`. Block tables then list these alone."""

    owner: int
    owners: int

    def positions(self, places: Tensor, block_size: int) -> Tensor:
        """The positions of keys at `places` among those that the cache has."""
        return (places // block_size * self.owners + self.owner) * block_size + places % block_size


@dataclass(frozen=True, slots=True)
class AttentionMeta:
    """Where the N rows of one attention block stand, and where their keys lie. int32, on the device, but `row_ends`.

    positions[N]; slots[N] = block * S + offset for the row's own K/V; run_of_row[N]; block_tables[R, max blocks];
    row_ends: cumulative rows of the runs (host integers, for the twin). `share`: the keys that this cache has, for a
    partial output; None: all.
    """

    positions: Tensor
    slots: Tensor
    run_of_row: Tensor
    block_tables: Tensor
    row_ends: tuple[int, ...]
    share: KeyShare | None = None


@dataclass(frozen=True, slots=True)
class KVCache:
    """One layer's cache on this rank: k and v are [B + 1, K, S, D]; block 0 is the null block.

    `packed`: the S * D elements of a block and head lie as the step library's kernels read them, K as [D / 2, S, 2]
    and V as [S / 2, D, 2].
    """

    k: Tensor
    v: Tensor
    packed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AttentionSpec:
    """One layer's attention on this rank: query head a reads KV head kv_of_head[a] (int32 [A]), scores are multiplied
    by `scale`; `window`: 0, or how many of the latest keys a row sees. `dim`: D, and in MLA latent and rotated dims."""

    kv_of_head: Tensor
    dim: int
    scale: float
    window: int = 0


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How one block of one layer's cache lies in memory: `shape` [K, 2, S, D] where packed, else [2, K, S, D], and
    [1, K, S, D] where keys and values are one tensor."""

    shape: tuple[int, int, int, int]
    packed: bool = False

    def cache(self, blocks: Tensor) -> KVCache:
        """The cache in memory [B + 1, *shape]."""
        if self.packed:
            return KVCache(blocks[:, :, 0], blocks[:, :, 1], packed=True)
        return KVCache(blocks[:, 0], blocks[:, -1])


class AttentionBackend(ABC, Generic[Prepared]):
    """One way to compute causal attention over a paged cache."""

    name: str
    gives_partial = True
    """Whether `forward` gives partial outputs."""
    divides_first = False
    """Whether a partial output's sums were divided and rounded by the library that gave them (`partial_of_lse`)."""

    def why_not(self, spec: AttentionSpec, dtype: torch.dtype, device: torch.device) -> str:
        """What keeps the backend from this layer's attention; empty where nothing does."""
        return ""

    def taken(self, spec: AttentionSpec, dtype: torch.dtype, device: torch.device) -> AttentionSpec:
        """The spec. WeftError: `why_not` says why the backend does not take it."""
        if why := self.why_not(spec, dtype, device):
            raise WeftError(f"attention backend {self.name}: {why}")
        return spec

    def cache_layout(
        self, heads: int, dim: int, block_size: int, dtype: torch.dtype, *, latent: bool = False
    ) -> CacheLayout:
        """The layout of a block that `forward` reads. `latent`: keys and values are one tensor."""
        return CacheLayout((1 if latent else 2, heads, block_size, dim))

    @abstractmethod
    def prepare(self, meta: AttentionMeta) -> Prepared:
        """What `forward` needs of a step's rows, made once for all layers, outside the capture of a graph. A captured
        `forward` reads new numbers from the memory of `meta`, without another `prepare`."""

    @abstractmethod
    def forward(
        self, q: Tensor, cache: KVCache, prepared: Prepared, spec: AttentionSpec, *, partial: bool = False
    ) -> Tensor:
        """q [N, A, D] -> [N, A * D] in q's dtype, bit-equal for a row in any batch and any chunking; or the partial
        output. WeftError: the backend gives no partial one."""

    def merge(self, parts: Sequence[Tensor], heads: int) -> Tensor:
        """Partial outputs, of the same rows over different keys, to [N, A * D] in their dtype. They are added up in
        the given order."""
        return merge_partials(parts, heads)

    def no_partial(self) -> WeftError:
        """The error of a backend without partial outputs."""
        return WeftError(f"attention backend {self.name} gives no partial attention yet")


def pack_partial(sums: Tensor, level: Tensor, total: Tensor) -> Tensor:
    """sums [N, A, D], level and total [N, A, 1] -> the partial output [N, A * (D + 2)]."""
    return torch.cat((sums, level, total), -1).flatten(1)


def merge_partials(parts: Sequence[Tensor], heads: int) -> Tensor:
    """See `AttentionBackend.merge`. A row that saw no key in any part gives 0."""
    split = [part.unflatten(1, (heads, -1)) for part in parts]
    level = torch.stack([part[..., -2] for part in split]).amax(0).unsqueeze(-1)
    finite = level.masked_fill(level == -torch.inf, 0)  # -inf - -inf would be NaN
    sums, total = torch.zeros_like(split[0][..., :-2]), torch.zeros_like(level)
    for part in split:
        scale = torch.exp(part[..., -2:-1] - finite)
        sums, total = sums + part[..., :-2] * scale, total + part[..., -1:] * scale
    return (sums / total.masked_fill(total == 0, 1)).flatten(1)


def partial_of_lse(out: Tensor, lse: Tensor) -> Tensor:
    """The partial output of a library that gives a divided output [N, A, D] and the log of its sum of exponentials
    [N, A]: sum 1 at level `lse`. The backend then says `divides_first`."""
    dtype = torch.promote_types(out.dtype, torch.float32)
    level = lse.to(dtype).unsqueeze(-1)
    seen = level > -torch.inf
    return pack_partial(out.to(dtype).masked_fill(~seen, 0), level, seen.to(dtype))
