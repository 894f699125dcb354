"""The hops between pipeline stages, priced as the boundaries are: bytes that every rank of a stage receives."""

from __future__ import annotations

from dataclasses import dataclass

from weft.arch.shards import Shards
from weft.explain.traffic import ID_BYTES, LOGIT_BYTES, Received, decode_tables
from weft.layout.layout import Layout
from weft.layout.pipeline_p2p import PipelineTransfer, pipeline_transfers, transfer_rows


@dataclass(frozen=True, slots=True)
class TransferTraffic:
    """A hop and what each rank of the receiving stage receives in it."""

    hop: PipelineTransfer
    received: tuple[Received, ...]


def hop_traffic(shards: Shards, itemsize: int, batches: tuple[int, ...]) -> tuple[TransferTraffic, ...]:
    """All hops of a decode step, priced at each of `batches` rows per attention-dp group."""
    layout = shards.layout
    return tuple(
        TransferTraffic(hop, tuple(_received(layout, hop, itemsize, batch) for batch in batches))
        for hop in pipeline_transfers(layout, shards.config.hidden_size, shards.forward_plan.residual)
    )


def _received(layout: Layout, hop: PipelineTransfer, itemsize: int, batch: int) -> Received:
    size = ID_BYTES if hop.item == "id" else max(LOGIT_BYTES, itemsize)
    tables = decode_tables(layout, batch)
    counts = (transfer_rows(hop, rank, *tables) for rank in range(layout.stage_size))
    return Received(batch, tuple(count * hop.width * size for count in counts))
