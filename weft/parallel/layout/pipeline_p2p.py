"""What moves between pipeline stages in a step: the residual stream forward, sampled ids back to the first stage.

Every rank exchanges rows with the rank at its own place in the neighbouring stage. A row of the stream crosses once: of
rows that several ranks hold, each sends its part, and the ranks of the next stage gather the parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from weft.parallel.layout.boundaries import SAMPLED_COLUMNS, Boundary, Rows
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import Placement, full
from weft.parallel.layout.ranks import coords, rank_at
from weft.parallel.layout.rows import RowTable


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
    """Which rows a rank sends, and its twin receives."""
    whole: Placement
    """Where the rows lie in both stages."""

    @property
    def cut(self) -> Boundary:
        """In the sending stage, before the message."""
        return Boundary(self.name.replace(".in", ".out"), self.whole, self.held, self.width, self.rows, "activation")

    @property
    def gather(self) -> Boundary:
        """In the receiving stage, after the message."""
        return Boundary(self.name, self.held, self.whole, self.width, self.rows, "activation")

    def rows_of(self, rank: int, table: RowTable) -> int:
        """Rows of `table` that a rank receives or sends; `rank` counts inside its stage."""
        first = rank - rank % self.held.size
        return table.count(first, first + self.held.size)


def pipeline_transfers(layout: Layout, hidden: int, stream: Placement) -> tuple[PipelineTransfer, ...]:
    """All transfers of a step in order; none with one stage. `stream`: where the model's residual stream lies."""
    stages = layout.pipeline.stages
    if stages == 1:
        return ()
    forward = (
        PipelineTransfer("stage.in", stage - 1, stage, hidden, "rows", "stream", full(1), stream)
        for stage in range(1, stages)
    )
    group = full(layout.group_size)
    return (*forward, PipelineTransfer("ids.in", stages - 1, 0, SAMPLED_COLUMNS, "sampled", "id", group, group))


def pipeline_pairs(layout: Layout) -> tuple[tuple[int, int], ...]:
    """The ranks of one replica that send to each other between stages, as ascending pairs: each with its twin in the
    next stage, and of the first stage with the last one's."""
    size, stages = layout.stage_size, layout.pipeline.stages
    ends = {(stage - 1, stage) for stage in range(1, stages)} | ({(0, stages - 1)} if stages > 1 else set())
    return tuple(sorted((a * size + rank, b * size + rank) for a, b in ends for rank in range(size)))


def steps_in_flight(layout: Layout) -> int:
    """Steps that may be in flight at once, and so messages that a mailbox has room for: one in each stage, and one that
    the first stage finds when it has run its own. With one stage one runs and one waits."""
    return layout.pipeline.stages + 1


def transfer_rows(hop: PipelineTransfer, rank: int, rows: RowTable, sampled: RowTable) -> int:
    """Rows of a transfer that a rank receives or sends; `rank` counts inside its stage."""
    return hop.rows_of(rank, rows if hop.rows == "rows" else sampled)


def twin(layout: Layout, rank: int, stage: int) -> int:
    """The rank of the world at the same place of another stage of the same replica."""
    return rank_at(layout, replace(coords(layout, rank), stage=stage))
