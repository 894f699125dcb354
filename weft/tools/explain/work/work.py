"""What every rank multiplies and reads in a step: rows, depth and columns of each product, bytes of weights and keys.

Read from `Shards`, the forward plan and row tables. Which rows choose which expert is not known beforehand: an expert
rank has what the fullest of its block is expected to have, with uniform routing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

from weft.parallel.arch.shards import Shards
from weft.parallel.arch.spec import ParamSpec
from weft.parallel.layout.rows import RowTable, row_table, sampled_table
from weft.parallel.layout.splits import attended_heads
from weft.tools.explain.traffic import decode_tables
from weft.tools.explain.work.routing import fullest_rows, fullest_touched

TAKEN_AT = {"router": "experts.in"}
"""The boundary before a module that has none of its own name."""


@dataclass(frozen=True, slots=True)
class CountedStep:
    """A decode step (`start` None: one row of each request, whose context is `keys`), or a prompt's chunk that begins
    at `start`; `rows` of every attention-dp group."""

    rows: int
    keys: int
    start: int | None = None

    def tables(self, shards: Shards) -> tuple[RowTable, RowTable]:
        """Rows and sampled rows of every rank of a stage; of a chunk the last row is sampled."""
        layout = shards.layout
        if self.start is None:
            return decode_tables(layout, self.rows)
        ranks, groups = layout.group_size, layout.attention.dp
        table = row_table([self.rows] * groups, ranks)
        return table, sampled_table([[self.rows - 1]] * groups, table, ranks)[0]


@dataclass(frozen=True, slots=True)
class Product:
    """`rows` rows of `depth` numbers times a matrix of `columns`, `times` in a step; `nbytes` of weights at each.
    Routed experts: `rows` of all slots together, and `nbytes` of those that any row chose."""

    module: str
    name: str
    rows: float
    depth: int
    columns: int
    nbytes: float
    times: int

    @property
    def multiplications(self) -> float:
        """At one of `times`."""
        return self.rows * self.depth * self.columns


@dataclass(frozen=True, slots=True)
class KeyReads:
    """Attention of one layer's `rows` over the keys of a rank, `times` in a step: `nbytes` of keys and values read."""

    rows: int
    heads: int
    multiplications: float
    nbytes: float
    times: int


@dataclass(frozen=True, slots=True)
class RankProducts:
    """Of one rank and step."""

    rank: int
    products: tuple[Product, ...]
    attention: tuple[KeyReads, ...]


def work_of(shards: Shards, itemsize: int, step: CountedStep) -> tuple[RankProducts, ...]:
    """Of the first rank of those that have the same work, in order; the first replica's."""
    layout = shards.layout
    table, sampled = step.tables(shards)
    sizes = {*layout.sizes.values(), layout.group_size}
    found: dict[tuple[object, ...], RankProducts] = {}
    for rank in range(layout.stage_size * layout.pipeline.stages):
        place = rank % layout.stage_size
        counts = [(t.count(first, first + size), place % size) for t in (table, sampled) for size in sorted(sizes)
                  for first in (place - place % size,)]  # fmt: skip
        key = (shards.stage_of(rank), *counts, *(t.count(place, place + 1) for t in (table, sampled)))
        if key not in found:
            products = tuple(_products(shards, rank, itemsize, table, sampled))
            found[key] = RankProducts(rank, products, tuple(_attention(shards, rank, itemsize, step, table, sampled)))
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one rank at each module."""

    shards: Shards
    place: int
    table: RowTable
    sampled: RowTable

    def at(self, module: str, last: bool) -> int:
        """Rows that the module multiplies; `last`: in the model's last layer, which goes on with the sampled rows."""
        boundaries = self.shards.forward_plan.boundaries
        boundary = boundaries[TAKEN_AT.get(module, f"{module}.in")]
        early = not boundaries["attention.in"].steps
        fewer = last and module != "attention" and (early or module != "o_proj")
        table = self.sampled if fewer or boundary.rows == "sampled" else self.table
        return self._block(table, boundary.dst.size)

    def of_values(self, last: bool) -> int:
        """Rows whose latents are unfolded to values."""
        boundary = self.shards.forward_plan.boundaries["attention.in"]
        return self._block(self.sampled if last and not boundary.steps else self.table, boundary.dst.size)

    def chosen(self, last: bool) -> int:
        """Rows of the expert block, wherever they are."""
        experts = self.shards.layout.experts
        assert experts is not None
        return self._block(self.sampled if last else self.table, experts.tp * experts.ep)

    def _block(self, table: RowTable, size: int) -> int:
        first = self.place - self.place % size
        return table.count(first, first + size)


def _products(shards: Shards, rank: int, itemsize: int, table: RowTable, sampled: RowTable) -> Iterator[Product]:
    rows = _Rows(shards, rank % shards.layout.stage_size, table, sampled)
    for parts, last, times in _matrices(shards, rank):
        spec = parts[0]
        columns = sum(shards.local_shape(part, rank)[0] for part in parts)
        depth = shards.local_shape(spec, rank)[1]
        nbytes = sum(_read_bytes(shards, part, rank, itemsize) for part in parts)
        name = spec.target.rpartition("layers.")[2].partition(".")[2] or spec.target
        if spec.expert is not None:
            yield _routed(shards, rows, name, (depth, columns), nbytes, last, times)
        elif shards.config.mla and name == "attention.kv_b.weight":
            mla = shards.config.mla
            heads = columns // (mla.nope_dim + mla.v_dim)
            for word, dims, count in (
                ("to_latent", mla.nope_dim, rows.at("attention", last)),
                ("to_value", mla.v_dim, rows.of_values(last)),
            ):
                share = nbytes * dims / (mla.nope_dim + mla.v_dim)
                yield Product("attention", f"attention.{word}", count, depth, heads * dims, share, times)
        else:
            yield Product(spec.module, name, rows.at(spec.module, last), depth, columns, nbytes, times)


def _matrices(shards: Shards, rank: int) -> Iterable[tuple[list[ParamSpec], bool, int]]:
    """The parts of each matrix that rows are multiplied by, whether it is the model's last layer's, and how many
    layers of the rank's stage have one like it."""
    parts: dict[str, list[ParamSpec]] = {}
    for spec in shards.counted_of(rank):
        if len(spec.shape) == 2 and spec.module != "embedding":
            parts.setdefault(spec.target, []).append(spec)
    end = f"layers.{shards.config.num_layers - 1}."
    alike: dict[tuple[object, ...], list[list[ParamSpec]]] = {}
    for target, found in parts.items():
        name = target.partition("layers.")[2].partition(".")[2] or target
        own = found[0].name if shards.storage.blocks else ""
        shapes = tuple(part.shape for part in found)
        alike.setdefault((name, shapes, target.startswith(end), own), []).append(found)
    return [(many[0], bool(key[2]), len(many)) for key, many in alike.items()]


def _read_bytes(shards: Shards, spec: ParamSpec, rank: int, itemsize: int) -> int:
    """Bytes of one matrix, also where it is a view of the embedding."""
    if not shards.is_view(spec) or shards.packs_head_again:
        return shards.bytes_of(spec, rank, itemsize)
    if shards.layout.embedding.tp == shards.layout.lm_head.tp:
        return shards.bytes_of(shards.counted_specs[0], rank, itemsize)
    return prod(shards.local_shape(spec, rank)) * itemsize


def _routed(
    shards: Shards, rows: _Rows, name: str, shape: tuple[int, int], nbytes: int, last: bool, times: int
) -> Product:
    moe, experts = shards.config.moe, shards.layout.experts
    assert moe is not None and experts is not None
    count = rows.chosen(last)
    touched = fullest_touched(count, moe.num_experts, moe.top_k, experts.ep)
    held = -(-experts.slots // experts.ep)
    share = min(1.0, touched / held) * nbytes * held / max(1, shards.slots_held(rows.place))
    return Product("experts", name, fullest_rows(count, moe.num_experts, moe.top_k, experts.ep), *shape, share, times)


def _attention(
    shards: Shards, rank: int, itemsize: int, step: CountedStep, table: RowTable, sampled: RowTable
) -> Iterator[KeyReads]:
    layout, config = shards.layout, shards.config
    place, owners, gather = rank % layout.stage_size, layout.kv_owners, shards.forward_plan.key_gather
    if step.start is not None and gather and gather.chosen(step.rows, step.start + step.rows, 1, itemsize):
        owners = 1  # each rank gets all keys for its own rows and heads
    own = shards.head_share(rank).q
    if owners > 1:
        own = attended_heads(shards.heads, place % layout.attention.tp, layout.attention.kv_split).q
    dims = 2 * config.mla.latent_dim if config.mla else config.query_dim + config.value_dim
    early = not shards.forward_plan.boundaries["attention.in"].steps
    kinds: dict[tuple[int, bool], int] = {}
    for layer in shards.layers_of(rank):
        key = (config.window(layer), early and layer == config.num_layers - 1)
        kinds[key] = kinds.get(key, 0) + 1
    size = layout.group_size if owners > 1 else layout.attention.tp
    cached = shards.kv_bytes_of_owned(rank, itemsize) / max(1, len(shards.layers_of(rank)))
    for (window, last), times in kinds.items():
        first = place - place % size
        rows = (sampled if last else table).count(first, first + size)
        seen, read = _keys(step, rows, window)
        heads = own[1] - own[0]
        yield KeyReads(rows, heads, seen * heads * dims / owners, read * cached / owners, times)


def _keys(step: CountedStep, rows: int, window: int) -> tuple[float, float]:
    """Keys that all rows see, added up, and positions that are read: of each request in a decode step, of the one
    prompt in a chunk, whose rows see the keys before them."""
    if step.start is None:
        each = min(step.keys, window) if window else step.keys
        return float(rows * each), float(rows * each)
    if not rows:
        return 0.0, 0.0
    ends = range(step.start + step.rows - rows + 1, step.start + step.rows + 1)
    seen = sum(min(end, window) for end in ends) if window else (ends[0] + ends[-1]) * rows / 2
    return float(seen), float(min(ends[-1], window + rows) if window else ends[-1])
