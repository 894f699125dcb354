"""What moves between modules in a decode step: every boundary's collectives, their ranks, and exact bytes received.

Reads `dense_boundaries` and `received_bytes`, which the engine runs by; decides no collective itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from weft.arch.config import ModelConfig
from weft.arch.stages import stage_layers
from weft.layout.boundaries import Boundary, dense_boundaries
from weft.layout.layout import Layout
from weft.layout.ranks import Group
from weft.layout.rows import RowTable, row_table, sampled_table
from weft.layout.transition import Step, received_bytes

LOGIT_BYTES = 4
"""Logits travel in fp32 at least."""
ID_BYTES = 8
"""Token ids travel as int64."""
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
class Call:
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
    calls: tuple[Call, ...]

    @property
    def times(self) -> int:
        """How often a step of the whole model passes it."""
        return sum(self.times_of_stage)


def traffic_of(
    layout: Layout, config: ModelConfig, itemsize: int, batches: tuple[int, ...]
) -> tuple[BoundaryTraffic, ...]:
    """All boundaries in the order of a forward pass, priced at each of `batches` rows per attention-dp group."""
    boundaries = dense_boundaries(
        layout,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.value_dim,
        vocab=config.vocab_size,
    )
    without = _layer_modules(config, range(config.num_layers)) ^ PER_LAYER
    tables = {batch: decode_tables(layout, batch) for batch in batches}
    return tuple(
        BoundaryTraffic(
            boundary,
            _times(layout, config, boundary.name),
            tuple(_call(layout, boundary, step, itemsize, tables) for step in boundary.steps),
        )
        for boundary in boundaries.values()
        if boundary.name.partition(".")[0] not in without
    )


def _times(layout: Layout, config: ModelConfig, name: str) -> tuple[int, ...]:
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


def _call(
    layout: Layout, boundary: Boundary, step: Step, itemsize: int, tables: dict[int, tuple[RowTable, RowTable]]
) -> Call:
    ranks = range(layout.stage_size)
    size = {"id": ID_BYTES, "logit": max(LOGIT_BYTES, itemsize), "activation": itemsize}[boundary.item]
    received = []
    for batch, (rows, sampled) in tables.items():
        table = rows if boundary.rows == "rows" else sampled
        received.append(Received(batch, tuple(_received(step, rank, table, size) for rank in ranks)))
    groups = tuple(dict.fromkeys(step.group(rank) for rank in ranks)) if step.kind != "slice" else ()
    return Call(step.kind, step.size, step.stride, groups, tuple(received))


def _received(step: Step, rank: int, table: RowTable, itemsize: int) -> int:
    return 0 if step.kind == "slice" else received_bytes(step, rank, table, itemsize)
