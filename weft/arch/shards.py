"""Shards: which interval of which weight a rank holds, from a layout and a model's config. Knows no file, no tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import prod

from weft.arch.config import ModelConfig
from weft.arch.params import Cut, ParamSpec, param_specs
from weft.layout.cuts import HeadShare, cuts_for, deal_heads, even_cuts
from weft.layout.layout import Layout
from weft.layout.placement import Interval


@dataclass(frozen=True)
class Shards:
    """Slices of every weight for every rank. Intervals are half-open, in elements along the spec's dim."""

    config: ModelConfig
    layout: Layout

    @cached_property
    def specs(self) -> tuple[ParamSpec, ...]:
        """All weights of the model."""
        return param_specs(self.config)

    @cached_property
    def heads(self) -> tuple[HeadShare, ...]:
        """Query and KV heads of each attention tp position."""
        attention = self.layout.attention
        return deal_heads(self.config.num_heads, self.config.num_kv_heads, attention.tp, attention.split)

    @cached_property
    def cuts(self) -> dict[Cut, tuple[Interval, ...]]:
        """The interval of each position in the module's block, for every cut table."""
        dim, layout, config = self.config.head_dim, self.layout, self.config
        q = tuple((share.q[0] * dim, share.q[1] * dim) for share in self.heads)
        return {
            Cut.Q: q,
            Cut.KV: tuple((share.kv[0] * dim, share.kv[1] * dim) for share in self.heads),
            Cut.O_IN: cuts_for(q, layout.o_proj.tp),
            Cut.INTERMEDIATE: even_cuts(config.intermediate_size, layout.dense.tp),
            Cut.VOCAB_IN: even_cuts(config.vocab_size, layout.embedding.tp),
            Cut.VOCAB_OUT: even_cuts(config.vocab_size, layout.lm_head.tp),
        }

    def head_share(self, rank: int) -> HeadShare:
        """The heads of `rank`."""
        return self.heads[rank % self.layout.attention.tp]

    def interval(self, spec: ParamSpec, rank: int) -> Interval | None:
        """What `rank` holds of spec's dim; None: the whole tensor."""
        if spec.cut is Cut.NONE:
            return None
        cuts = self.cuts[spec.cut]
        return cuts[rank % self.layout.stage_size % len(cuts)]

    def local_shape(self, spec: ParamSpec, rank: int) -> tuple[int, ...]:
        """Shape of the slice of `spec` on `rank`."""
        interval = self.interval(spec, rank)
        if interval is None or spec.dim is None:
            return spec.shape
        shape = list(spec.shape)
        shape[spec.dim] = interval[1] - interval[0]
        return tuple(shape)

    @property
    def tied_view(self) -> bool:
        """Whether lm_head.weight is a view of embedding.weight: tied, and the ranks hold the rows it needs."""
        embedding, head = self.layout.embedding.tp, self.layout.lm_head.tp
        return self.config.tie_embeddings and embedding in (1, head) and self.layout.pipeline.stages == 1

    def is_view(self, spec: ParamSpec) -> bool:
        """Whether `spec` needs no memory of its own."""
        return spec.module == "lm_head" and self.tied_view

    def elements(self, rank: int) -> dict[str, int]:
        """Elements that `rank` holds, by module; a tied view counts as none."""
        counts: Counter[str] = Counter()
        for spec in self.specs:
            counts[spec.module] += 0 if self.is_view(spec) else prod(self.local_shape(spec, rank))
        return dict(counts)

    def bytes(self, rank: int, itemsize: int) -> dict[str, int]:
        """Bytes that `rank` holds, by module, with `itemsize` bytes an element."""
        return {module: count * itemsize for module, count in self.elements(rank).items()}

    def kv_bytes_per_token(self, rank: int, itemsize: int) -> int:
        """Bytes of K and V of all layers for one token on `rank`."""
        lo, hi = self.head_share(rank).kv
        return 2 * (hi - lo) * self.config.head_dim * self.config.num_layers * itemsize
