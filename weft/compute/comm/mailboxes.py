"""Mailboxes: room for the messages between pipeline stages. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.base.settings import DTYPE_BYTES, EngineConfig
from weft.base.step.plan import most_sampled
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.pipeline_p2p import pipeline_transfers, steps_in_flight

ID_BYTES = 8
"""Of an id, and of whether it is one."""
STREAM_BYTES = 4
"""Of a number of the residual stream, at least."""


@dataclass(frozen=True, slots=True)
class Mailboxes:
    """`boxes`: messages that each has room for; `bytes_of`: the largest message, by sender and receiver."""

    boxes: int = 0
    bytes_of: Mapping[tuple[int, int], int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Of all of them."""
        return self.boxes * sum(self.bytes_of.values())


NO_MAILBOXES = Mailboxes()
"""Of a world with one stage."""


def mailboxes_of(shards: Shards, engine: EngineConfig) -> Mailboxes:
    """Those of one replica: none where it has one stage; else its dtype must be named."""
    layout, size = shards.layout, shards.layout.stage_size
    if layout.pipeline.stages == 1:
        return Mailboxes(steps_in_flight(layout), {})
    rows, item = -(-engine.tokens_per_step // layout.attention.tp), max(STREAM_BYTES, DTYPE_BYTES[engine.dtype])
    found: dict[tuple[int, int], int] = {}
    for each in pipeline_transfers(layout, shards.config.hidden_size, shards.forward_plan.residual):
        most = most_sampled(engine.max_num_seqs) if each.item == "id" else rows
        nbytes = most * each.width * (ID_BYTES if each.item == "id" else item)
        found |= {(each.sender * size + rank, each.receiver * size + rank): nbytes for rank in range(size)}
    return Mailboxes(steps_in_flight(layout), found)
