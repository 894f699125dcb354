"""The hops between pipeline stages, priced as the boundaries are: bytes that every rank of a stage receives."""

from __future__ import annotations

from dataclasses import dataclass

from weft.arch.shards import Shards
from weft.explain.traffic import ID_BYTES, LOGIT_BYTES, Received, decode_tables
from weft.layout.hops import Hop, hop_rows, hops_of
from weft.layout.layout import Layout


@dataclass(frozen=True, slots=True)
class HopTraffic:
    """A hop and what each rank of the receiving stage receives in it."""

    hop: Hop
    received: tuple[Received, ...]


def hop_traffic(shards: Shards, itemsize: int, batches: tuple[int, ...]) -> tuple[HopTraffic, ...]:
    """All hops of a decode step, priced at each of `batches` rows per attention-dp group."""
    layout = shards.layout
    return tuple(
        HopTraffic(hop, tuple(_received(layout, hop, itemsize, batch) for batch in batches))
        for hop in hops_of(layout, shards.config.hidden_size, shards.passage.residual)
    )


def _received(layout: Layout, hop: Hop, itemsize: int, batch: int) -> Received:
    size = ID_BYTES if hop.item == "id" else max(LOGIT_BYTES, itemsize)
    tables = decode_tables(layout, batch)
    counts = (hop_rows(hop, rank, *tables) for rank in range(layout.stage_size))
    return Received(batch, tuple(count * hop.width * size for count in counts))
