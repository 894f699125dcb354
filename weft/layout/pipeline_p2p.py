"""What moves between pipeline stages in a step: the residual stream forward, sampled ids back to the first stage.

Every rank exchanges rows with the rank at its own place in the neighbouring stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from weft.layout.boundaries import SAMPLED_COLUMNS, Rows
from weft.layout.layout import Layout
from weft.layout.placement import Placement, full
from weft.layout.ranks import coords, rank_at
from weft.layout.rows import RowTable


@dataclass(frozen=True, slots=True)
class PipelineTransfer:
    """A send from every rank of one stage to the rank at the same place in another: `width` columns of its rows."""

    name: Literal["stage.in", "ids.in"]
    sender: int
    """Stage."""
    receiver: int
    width: int
    rows: Rows
    item: Literal["stream", "id"]
    """stream: the residual stream, in fp32 at least."""
    held: Placement
    """Where the rows lie, on both sides."""


def pipeline_transfers(layout: Layout, hidden: int, stream: Placement) -> tuple[PipelineTransfer, ...]:
    """All transfers of a step in order; none with one stage. `stream`: where the model's residual stream lies."""
    stages = layout.pipeline.stages
    if stages == 1:
        return ()
    forward = (
        PipelineTransfer("stage.in", stage - 1, stage, hidden, "rows", "stream", stream) for stage in range(1, stages)
    )
    return (
        *forward,
        PipelineTransfer("ids.in", stages - 1, 0, SAMPLED_COLUMNS, "sampled", "id", full(layout.attention.tp)),
    )


def transfer_rows(hop: PipelineTransfer, rank: int, rows: RowTable, sampled: RowTable) -> int:
    """Rows of a transfer that a rank receives or sends; `rank` counts inside its stage."""
    first = rank - rank % hop.held.size
    return (rows if hop.rows == "rows" else sampled).count(first, first + hop.held.size)


def twin(layout: Layout, rank: int, stage: int) -> int:
    """The rank of the world at the same place of another stage of the same replica."""
    return rank_at(layout, replace(coords(layout, rank), stage=stage))
