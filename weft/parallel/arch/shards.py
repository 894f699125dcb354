"""Shards: which interval of which weight a rank holds, from a layout and a model's config."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.forward_plan import ForwardPlan, forward_plan
from weft.parallel.arch.params import param_specs
from weft.parallel.arch.quantization import QUANTIZABLE, QUANTIZED, WeightStorage, compressed_bytes, weight_bits
from weft.parallel.arch.slots import ExpertSlots, SlotMap
from weft.parallel.arch.spec import Cut, ParamSpec
from weft.parallel.arch.stages import held_specs, layers_of
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import Interval
from weft.parallel.layout.ranks import coords
from weft.parallel.layout.splits import HeadShare, assign_heads, even_splits, splits_after


@dataclass(frozen=True)
class Shards:
    """Slices of every weight for every rank. Intervals are half-open, in elements along the spec's dim."""

    config: ModelConfig
    layout: Layout
    slot_maps: tuple[tuple[int, SlotMap], ...] = ()
    """Expert of every slot, for layers whose experts are not placed round robin."""
    storage: WeightStorage = WeightStorage()
    """Which matrices are quantized; all others are counted at the dtype's width."""

    @cached_property
    def specs(self) -> tuple[ParamSpec, ...]:
        """All weights of the model."""
        return param_specs(self.config)

    @cached_property
    def forward_plan(self) -> ForwardPlan:
        """Every boundary of the model's forward pass."""
        return forward_plan(self.config, self.layout)

    @cached_property
    def heads(self) -> tuple[HeadShare, ...]:
        """Query and KV heads of each attention tp position."""
        attention = self.layout.attention
        return assign_heads(self.config.num_heads, self.config.num_kv_heads, attention.tp, attention.split)

    @cached_property
    def cuts(self) -> dict[Cut, tuple[Interval, ...]]:
        """The interval of each position in the module's block, for every cut table."""
        layout, config = self.layout, self.config
        q_heads = tuple(share.q for share in self.heads)
        cuts = {
            Cut.Q: _times(q_heads, config.query_dim),
            Cut.KV: _times(tuple(share.kv for share in self.heads), config.head_dim),
            Cut.O_IN: splits_after(_times(q_heads, config.value_dim), layout.o_proj.tp),
            Cut.INTERMEDIATE: _in_blocks(config.intermediate_size, layout.dense.tp, config.column_block),
            Cut.VOCAB_IN: even_splits(config.vocab_size, layout.embedding.tp),
            Cut.VOCAB_OUT: even_splits(config.vocab_size, layout.lm_head.tp),
        }
        if config.mla:
            cuts[Cut.KV_B] = _times(q_heads, config.mla.nope_dim + config.mla.v_dim)
        if config.moe and layout.experts:
            cuts[Cut.EXPERT] = _in_blocks(config.moe.intermediate_size, layout.experts.tp, config.column_block)
        if config.moe and layout.shared_experts:
            wide = config.moe.shared_intermediate_size
            cuts[Cut.SHARED] = _in_blocks(wide, layout.shared_experts.tp, config.column_block)
        return cuts

    @cached_property
    def slots(self) -> ExpertSlots | None:
        """The expert slots; None for a dense model."""
        experts = self.layout.experts
        return ExpertSlots(experts, self.config.num_experts, self.slot_maps) if experts else None

    def specs_of(self, rank: int) -> tuple[ParamSpec, ...]:
        """The specs of its stage that `rank` holds something of; an expert's once per slot there, with different
        `part`s."""
        own = held_specs(self.specs, self.config, self.layout, rank)
        if self.slots is None:
            return own
        lo, hi = self.slots.of_rank(rank % self.layout.stage_size)
        local: dict[int, dict[int, list[int]]] = {}
        for layer in filter(self.config.has_experts, self.layers_of(rank)):
            local[layer] = defaultdict(list)
            for place, expert in enumerate(self.slots.map(layer)[lo:hi]):
                local[layer][expert].append(place)
        return tuple(held for spec in own for held in _held(spec, local))

    def stage_of(self, rank: int) -> int:
        """The pipeline stage of `rank`."""
        return coords(self.layout, rank).stage

    def is_last(self, rank: int) -> bool:
        """Whether `rank` is of the last pipeline stage, which has norm and lm_head and samples."""
        return self.stage_of(rank) == self.layout.pipeline.stages - 1

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

    @property
    def packs_head_again(self) -> bool:
        """Whether a part of the embedding's rows is packed again as lm_head, although lm_head is a view of it."""
        return self.tied_view and self.storage.packed and self.layout.embedding.tp != self.layout.lm_head.tp

    def target_shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Shape of every runtime parameter of `rank` that has memory of its own: its parts' slices along dim 0."""
        shapes: dict[str, tuple[int, ...]] = {}
        for spec in self.specs_of(rank):
            if self.is_view(spec):
                continue
            shape = self.local_shape(spec, rank)
            before = shapes[spec.target][0] if spec.target in shapes else 0
            shapes[spec.target] = (before + shape[0], *shape[1:])
        return shapes

    def elements(self, rank: int) -> dict[str, int]:
        """Elements that `rank` holds, by module; a tied view counts as none."""
        counts: Counter[str] = Counter()
        for spec in self.counted_of(rank):
            counts[spec.module] += self.elements_of(spec, rank)
        return dict(counts)

    @cached_property
    def counted_specs(self) -> tuple[ParamSpec, ...]:
        """All weights, but of each layer's routed experts, which are alike, the first alone."""
        return param_specs(self.config, 1)

    def counted_of(self, rank: int) -> tuple[ParamSpec, ...]:
        """Those of `counted_specs` that belong to the stage of `rank`."""
        if self.layout.pipeline.stages == 1:
            return self.counted_specs
        return held_specs(self.counted_specs, self.config, self.layout, rank)

    def elements_of(self, spec: ParamSpec, rank: int) -> int:
        """Elements of one of `counted_specs` on `rank`: an expert's as often as the rank has slots."""
        return 0 if self.is_view(spec) else prod(self.local_shape(spec, rank)) * self._times(spec, rank)

    def _times(self, spec: ParamSpec, rank: int) -> int:
        """How often `rank` holds one of `counted_specs`."""
        return 1 if spec.expert is None else self.slots_held(rank)

    def slots_held(self, rank: int) -> int:
        """Expert slots of a layer on `rank`; 1 for a dense model."""
        if self.slots is None:
            return 1
        lo, hi = self.slots.of_rank(rank % self.layout.stage_size)
        return hi - lo

    def bytes(self, rank: int, itemsize: int) -> dict[str, int]:
        """Bytes that `rank` holds, by module, with `itemsize` bytes an element that is not quantized."""
        counts: Counter[str] = Counter()
        for spec in self.counted_of(rank):
            counts[spec.module] += self.bytes_of(spec, rank, itemsize)
        return dict(counts)

    def bytes_of(self, spec: ParamSpec, rank: int, itemsize: int) -> int:
        """Bytes of one of `counted_specs` on `rank`: a quantized checkpoint's matrices at their own width, and what
        weft quantizes or compresses at its format's."""
        stored = self._stored_bytes(spec, rank)
        if stored is not None:
            return stored
        if self.is_view(spec) and self.packs_head_again:
            return prod(self.local_shape(spec, rank)) * itemsize
        bits = weight_bits(self.config.quantization) if spec.module in QUANTIZED and len(spec.shape) == 2 else None
        return self.elements_of(spec, rank) * (8 * itemsize if bits is None else bits) // 8

    def _stored_bytes(self, spec: ParamSpec, rank: int) -> int | None:
        if len(spec.shape) != 2 or not self.multiplies(spec) or (self.is_view(spec) and not self.packs_head_again):
            return None
        shape = self.local_shape(spec, rank)
        if spec.expert is not None:  # a file's blocks are taken of matrices that are one tensor
            one = self.storage.matrix_bytes("", shape, False, False)
            return one * self._times(spec, rank) if one is not None and self.storage.experts else None
        found = self.storage.matrix_bytes(spec.name, shape, self._is_head(spec), self._between_blocks(spec, rank))
        compresses = self.storage.compressed and not self.config.quantization
        return compressed_bytes(shape) if found is None and compresses else found

    def multiplies(self, spec: ParamSpec) -> bool:
        """Whether it is a matrix that is quantized, where any is."""
        latent = spec.module == "attention" and self.config.mla
        return self._is_head(spec) or (spec.module in QUANTIZABLE and not latent)

    def _is_head(self, spec: ParamSpec) -> bool:
        """Whether logits are multiplied from it: an lm_head, or an embedding that is all of it."""
        alike = self.layout.embedding.tp == self.layout.lm_head.tp
        return spec.module == "lm_head" or (spec.module == "embedding" and self.tied_view and alike)

    def _between_blocks(self, spec: ParamSpec, rank: int) -> bool:
        """Whether no block of a file is cut; rows that are packed once more are not a file's."""
        interval = self.interval(spec, rank) if spec.dim == 1 else None
        block = self.storage.block_numbers(spec.name)
        again = self.is_view(spec) and self.packs_head_again
        return not again and (interval is None or not (interval[0] % block or interval[1] % block))

    @property
    def cuts_groups(self) -> bool:
        """Whether quantized values of ranks are not those of one rank: groups of a slice's columns share a scale, and
        are other groups where a whole row's group is split."""
        return any(end % self.storage.group for end in self._depth_ends())

    def _depth_ends(self) -> Iterator[int]:
        """Where quantized matrices are split along their depth; none at 0."""
        for spec in self.counted_specs:
            if spec.dim == 1 and self.multiplies(spec) and (spec.expert is None or self.storage.experts):
                for rank in range(self.layout.stage_size):
                    yield from {*(self.interval(spec, rank) or ())} - {0, spec.shape[1]}

    def slot_bytes(self, rank: int, itemsize: int) -> int:
        """Bytes of one expert slot of one layer on `rank`; 0 for a dense model."""
        if self.slots is None:
            return 0
        lo, hi = self.slots.of_rank(rank % self.layout.stage_size)
        layer = next(index for index in range(self.config.num_layers) if self.config.has_experts(index))
        prefix = f"layers.{layer}."
        own = [spec for spec in self.counted_specs if spec.expert is not None and spec.target.startswith(prefix)]
        return sum(self.bytes_of(spec, rank, itemsize) for spec in own) // max(1, hi - lo)

    def kv_bytes_per_token(self, rank: int, itemsize: int) -> int:
        """Bytes of K and V of its stage's layers that `rank` keeps for each token of a context: a part of a token's
        where several ranks share a context."""
        return -(-self.kv_bytes_of_owned(rank, itemsize) // self.layout.kv_owners)

    def kv_bytes_of_owned(self, rank: int, itemsize: int) -> int:
        """Bytes of K and V of its stage's layers for one token that `rank` keeps."""
        heads, dims = self.cache_shape(rank)
        return (1 if self.config.mla else 2) * heads * dims * len(self.layers_of(rank)) * itemsize

    def layers_of(self, rank: int) -> range:
        """The layers of the stage of `rank`."""
        return layers_of(self.layout, self.config, rank)

    def cache_shape(self, rank: int) -> tuple[int, int]:
        """(heads, dims) that the cache of `rank` holds of a token and layer; with MLA one latent, the same on all."""
        if self.config.mla:
            return 1, self.config.mla.latent_dim
        lo, hi = self.head_share(rank).kv
        return hi - lo, self.config.head_dim


def _in_blocks(columns: int, ranks: int, block: int) -> tuple[Interval, ...]:
    """Even cuts in whole blocks of columns; in single columns where there are fewer blocks than ranks."""
    if columns % block or columns // block < ranks:
        return even_splits(columns, ranks)
    return _times(even_splits(columns // block, ranks), block)


def _times(cuts: tuple[Interval, ...], width: int) -> tuple[Interval, ...]:
    return tuple((lo * width, hi * width) for lo, hi in cuts)


def _held(spec: ParamSpec, local: dict[int, dict[int, list[int]]]) -> list[ParamSpec]:
    """`spec` as often as the rank has slots for its expert."""
    if spec.expert is None:
        return [spec]
    places = local[int(spec.target.split(".")[1])].get(spec.expert, [])
    return [replace(spec, part=spec.part + (2 * place if spec.dim == 0 else place)) for place in places]
