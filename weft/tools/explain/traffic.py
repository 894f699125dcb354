"""What moves between modules in a decode step: every boundary's collectives, their ranks, and exact bytes received.

Reads the model's `forward_plan` and `received_bytes`, which the engine uses too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import lcm

from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.stages import stage_layers
from weft.parallel.layout.boundaries import PARTIAL_BYTES, Boundary, OwnerExchange, RoutedExchange, sampled_columns
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.ranks import Group, owners_of
from weft.parallel.layout.ranks import block as block_of
from weft.parallel.layout.rows import KVOwners, RowTable, row_table, sampled_table
from weft.parallel.layout.transition import Step, received_bytes

Tables = dict[int, tuple[RowTable, RowTable]]
"""Rows and sampled rows, by rows in every attention-dp group."""
LOGIT_BYTES = 4
"""Logits travel in fp32 at least."""
ID_BYTES = 8
"""Token ids travel as int64; a choice as an int32 and a weight in fp32 at least."""
PER_LAYER = frozenset({"attention", "o_proj", "dense", "experts", "shared_experts"})
"""Modules that a step passes in its layers, the others once."""


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that each rank of the stage receives in one call, `batch` rows in every attention-dp group."""

    batch: int
    per_rank: tuple[int, ...]

    @property
    def most(self) -> int:
        """Of the rank that receives most."""
        return max(self.per_rank)

    @property
    def total(self) -> int:
        """Of all ranks of the stage together."""
        return sum(self.per_rank)


@dataclass(frozen=True, slots=True)
class CollectiveCall:
    """One collective of a boundary; `groups` are the distinct groups of one stage, the first replica's first stage."""

    kind: str
    group_size: int
    stride: int
    groups: tuple[Group, ...]
    received: tuple[Received, ...]


@dataclass(frozen=True, slots=True)
class BoundaryTraffic:
    """A boundary, how often a step passes it in every pipeline stage, and its calls in order."""

    boundary: Boundary
    times_of_stage: tuple[int, ...]
    calls: tuple[CollectiveCall, ...]

    @property
    def name(self) -> str:
        """The boundary's."""
        return self.boundary.name

    @property
    def ends(self) -> tuple[str, str]:
        """Its placements, for a person."""
        return str(self.boundary.src), str(self.boundary.dst)

    @property
    def times(self) -> int:
        """How often a step of the whole model passes it."""
        return sum(self.times_of_stage)


@dataclass(frozen=True, slots=True)
class RoutedTraffic:
    """An exchange of routed rows: `calls` hold what ranks receive where choices are even, `most` what they can."""

    exchange: RoutedExchange
    times_of_stage: tuple[int, ...]
    calls: tuple[CollectiveCall, ...]
    most: tuple[Received, ...]

    @property
    def name(self) -> str:
        """The exchange's."""
        return self.exchange.name

    @property
    def ends(self) -> tuple[str, str]:
        """What travels, and as what it arrives, for a person."""
        return ("FULL(1)", "chosen rows") if self.exchange.way == "dispatch" else ("answers", "FULL(1)")

    @property
    def times(self) -> int:
        """How often a step of the whole model passes it."""
        return sum(self.times_of_stage)


@dataclass(frozen=True, slots=True)
class OwnerTraffic:
    """An exchange between ranks that share the KV cache of a request."""

    exchange: OwnerExchange
    times_of_stage: tuple[int, ...]
    calls: tuple[CollectiveCall, ...]

    @property
    def name(self) -> str:
        """The exchange's."""
        return self.exchange.name

    @property
    def ends(self) -> tuple[str, str]:
        """What travels, and where to, for a person."""
        words = {"queries": ("queries", "every owner"), "partials": ("partial outputs", "the row's rank")}
        return words.get(self.exchange.way, ("keys and values", "every owner"))

    @property
    def times(self) -> int:
        """How often a step of the whole model passes it."""
        return sum(self.times_of_stage)


@dataclass(frozen=True, slots=True)
class PromptTraffic:
    """What owners exchange in one layer for the first `rows` rows of a prompt in every attention-dp group: queries and
    partial outputs, or keys, whose blocks have `block_size` tokens. `longest`: the longest context with which so many
    rows of a prompt gather its keys."""

    rows: int
    block_size: int
    longest: int
    exchanges: tuple[OwnerTraffic, ...]


Traffic = BoundaryTraffic | RoutedTraffic | OwnerTraffic


def traffic_of(
    shards: Shards, itemsize: int, batches: tuple[int, ...], logprobs: int | None = None
) -> tuple[Traffic, ...]:
    """All boundaries in the order of a forward pass, priced at each of `batches` rows per attention-dp group.
    `logprobs`: alternatives whose log-probabilities are asked for, None for no log-probabilities."""
    layout, config, route = shards.layout, shards.config, shards.forward_plan
    without = _layer_modules(config, range(config.num_layers)) ^ PER_LAYER
    tables = {batch: decode_tables(layout, batch) for batch in batches}
    found: list[Traffic] = []
    for boundary in route.boundaries.values():
        if boundary.name.partition(".")[0] in without:
            continue
        times = times_of_stages(layout, config, boundary.name)
        if boundary.name == "sampling.out":
            boundary = replace(boundary, width=sampled_columns(logprobs))
        if boundary.name == "o_proj.in":
            found += [_of_owners(layout, exchange, times, itemsize, tables) for exchange in route.owner_exchanges]
        if boundary.name == "experts.out":
            found += [_routed(layout, exchange, times, itemsize, tables) for exchange in route.exchanges]
        calls = tuple(call_of(layout, boundary, step, itemsize, tables) for step in boundary.steps)
        found.append(BoundaryTraffic(boundary, times, calls))
    return tuple(found)


def _routed(
    layout: Layout, exchange: RoutedExchange, times: tuple[int, ...], itemsize: int, tables: Tables
) -> RoutedTraffic:
    block, which = exchange.block, 0 if exchange.way == "dispatch" else 1
    even, most = [], []
    alike = lcm(block.size, _rows_alike(layout))
    for batch, (table, _) in tables.items():
        counts: tuple[list[int], list[int]] = ([], [])
        for first in range(0, alike, block.size):
            rows = table.rows[first : first + block.size]
            counts[0].extend(found[which] for found in block.uniform_received(rows))
            counts[1].extend(block.most_received(rows, place)[which] for place in range(block.size))
        row = exchange.width * itemsize
        repeats = layout.stage_size // alike
        even.append(Received(batch, tuple(count * row for count in counts[0]) * repeats))
        most.append(Received(batch, tuple(count * row for count in counts[1]) * repeats))
    groups = tuple(block_of(rank, block.size) for rank in range(0, layout.stage_size, block.size))
    call = CollectiveCall("all_to_all", block.size, 1, groups, tuple(even))
    return RoutedTraffic(exchange, times, (call,), tuple(most))


def prompt_traffic(shards: Shards, itemsize: int, rows: int, block_size: int) -> PromptTraffic | None:
    """Of the first `rows` rows of prompts; None where every rank has all positions."""
    layout, plan = shards.layout, shards.forward_plan
    if plan.key_gather is None:
        return None
    owners = KVOwners(layout.attention.cp, layout.attention.kv_split, block_size)
    blocks = [-(-max(0, rows - owner * block_size) // owners.span) for owner in range(owners.count)]
    held = [0] * owners.count
    for position in range(0, rows, block_size):
        held[position // block_size % owners.count] += min(block_size, rows - position)
    split = owners.kv_split
    of_blocks = [sum(held[first : first + split]) for first in range(0, owners.count, split)]
    table = row_table(of_blocks * layout.attention.dp, layout.attention.tp)
    times = times_of_stages(layout, shards.config, "attention.in")
    found = [_of_owners(layout, each, times, itemsize, {rows: (table, table)}) for each in plan.owner_exchanges]
    keys = plan.key_gather.exchange
    gathered = []
    for rank in range(layout.stage_size):
        own = owners_of(layout, rank).index(rank)
        width = keys.heads[rank % layout.attention.tp] * keys.width * itemsize
        gathered.append((sum(blocks) - blocks[own]) * block_size * width)
    call = replace(found[0].calls[0], received=(Received(rows, tuple(gathered)),))
    longest = plan.key_gather.longest(rows, itemsize) // block_size * block_size
    return PromptTraffic(rows, block_size, longest, (*found, OwnerTraffic(keys, times, (call,))))


def _of_owners(
    layout: Layout, exchange: OwnerExchange, times: tuple[int, ...], itemsize: int, tables: Tables
) -> OwnerTraffic:
    received = []
    for batch, (table, _) in tables.items():
        counts = tuple(_owned_heads(layout, exchange, rank, table) for rank in range(layout.stage_size))
        size = itemsize if exchange.way == "queries" else max(PARTIAL_BYTES, itemsize)
        received.append(Received(batch, tuple(count * exchange.width * size for count in counts)))
    groups = tuple(sorted({owners_of(layout, rank) for rank in range(layout.stage_size)}))
    kind = "all_gather" if exchange.way == "queries" else "all_to_all"
    stride = groups[0][1] - groups[0][0]
    return OwnerTraffic(exchange, times, (CollectiveCall(kind, layout.kv_owners, stride, groups, tuple(received)),))


def _owned_heads(layout: Layout, exchange: OwnerExchange, rank: int, table: RowTable) -> int:
    """Heads of rows that a rank of the stage receives."""
    tp, group = layout.attention.tp, owners_of(layout, rank)

    def own(member: int) -> int:
        first = member - member % tp
        return table.count(first, first + tp) * exchange.heads[member % tp]

    if exchange.way == "queries":
        return sum(own(member) for member in group if member != rank)
    return (len(group) - 1) * own(rank)


def times_of_stages(layout: Layout, config: ModelConfig, name: str) -> tuple[int, ...]:
    """Per stage: its layers, or once where the model begins or ends."""
    module = name.partition(".")[0]
    if module in PER_LAYER:
        stages = stage_layers(layout, config.num_layers)
        return tuple(sum(module in _layer_modules(config, [layer]) for layer in range(*stage)) for stage in stages)
    where = 0 if name.startswith("embedding.") else layout.pipeline.stages - 1
    return tuple(int(stage == where) for stage in range(layout.pipeline.stages))


def _layer_modules(config: ModelConfig, layers: Iterable[int]) -> set[str]:
    """The modules of PER_LAYER that any of the layers has."""
    found = {"attention", "o_proj"}
    for layer in layers:
        if not config.has_experts(layer):
            found.add("dense")
        elif config.moe is not None:
            found |= {"experts", "shared_experts"} if config.moe.shared_intermediate_size else {"experts"}
    return found


def decode_tables(layout: Layout, batch: int) -> tuple[RowTable, RowTable]:
    """Rows and sampled rows of a decode step with `batch` requests in every attention-dp group."""
    ranks = layout.attention.tp * layout.attention.cp
    rows = row_table([batch] * layout.attention.dp, ranks)
    sampled, _ = sampled_table([range(batch)] * layout.attention.dp, rows, ranks)
    return rows, sampled


def call_of(layout: Layout, boundary: Boundary, step: Step, itemsize: int, tables: Tables) -> CollectiveCall:
    """A step of a boundary, priced; `itemsize`: of an activation."""
    sizes = {"id": ID_BYTES, "logit": max(LOGIT_BYTES, itemsize), "choice": 4 + max(4, itemsize)}
    size = sizes.get(boundary.item, itemsize)
    received = []
    # every group has as many rows, so what one rank receives is what those receive that stand alike in their blocks
    alike = lcm(step.size * step.stride, step.src.size, step.dst.size, _rows_alike(layout))
    for batch, (rows, sampled) in tables.items():
        table = rows if boundary.rows == "rows" else sampled
        some = tuple(received_bytes(step, rank, table, size) for rank in range(alike))
        received.append(Received(batch, some * (layout.stage_size // alike)))
    groups = step.groups(layout.stage_size) if step.kind != "slice" else ()
    return CollectiveCall(step.kind, step.size, step.stride, groups, tuple(received))


def _rows_alike(layout: Layout) -> int:
    """After so many ranks the rows of a decode step repeat."""
    return layout.attention.tp * layout.attention.cp
