"""Report: everything `weft explain` says about a model under a layout, as a record. Knows no text and no JSON."""

from __future__ import annotations

from dataclasses import dataclass

from weft.arch.config import ModelConfig
from weft.arch.fit import check_fit
from weft.arch.shards import Shards
from weft.explain.hops import HopTraffic, hop_traffic
from weft.explain.memory import RankMemory, memory_of_ranks
from weft.explain.notes import Note, notes_of
from weft.explain.traffic import BoundaryTraffic, traffic_of
from weft.layout.boundaries import residual
from weft.layout.layout import Layout
from weft.layout.placement import Placement
from weft.settings import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class Report:
    """ranks: of the world, in order. boundaries: of one stage, in the order of a forward pass."""

    model: str
    config: ModelConfig
    layout: Layout
    dtype: str
    batches: tuple[int, ...]
    """Rows per attention-dp group at which the boundaries are priced."""
    residual: Placement
    tied_view: bool
    ranks: tuple[RankMemory, ...]
    boundaries: tuple[BoundaryTraffic, ...]
    hops: tuple[HopTraffic, ...]
    """Between pipeline stages."""
    notes: tuple[Note, ...]

    def received_per_step(self, batch: int) -> tuple[int, ...]:
        """Bytes that each rank of the world receives in one decode step, all boundaries together."""
        place = self.batches.index(batch)
        totals = [0] * self.layout.world
        for passed in self.boundaries:
            for call in passed.calls:
                for rank in self.ranks:
                    count = call.received[place].per_rank[rank.rank % self.layout.stage_size]
                    totals[rank.rank] += passed.times_of_stage[rank.coords.stage] * count
        for passing in self.hops:
            for rank in self.ranks:
                if rank.coords.stage == passing.hop.receiver:
                    totals[rank.rank] += passing.received[place].per_rank[rank.rank % self.layout.stage_size]
        return tuple(totals)


def explain(model: str, config: ModelConfig, layout: Layout, *, dtype: str, batch: int = 1) -> Report:
    """The report for one model and layout. `model`: its name in the report; `batch`: rows per attention-dp group.

    LayoutError where the model does not fit the layout.
    """
    check_fit(layout, config)
    shards, itemsize = Shards(config, layout), DTYPE_BYTES[dtype]
    ranks = memory_of_ranks(shards, itemsize)
    batches = (1,) if batch == 1 else (1, batch)
    return Report(
        model=model,
        config=config,
        layout=layout,
        dtype=dtype,
        batches=batches,
        residual=residual(layout),
        tied_view=shards.tied_view,
        ranks=ranks,
        boundaries=traffic_of(layout, config, itemsize, batches),
        hops=hop_traffic(layout, config, itemsize, batches),
        notes=notes_of(shards, ranks),
    )
