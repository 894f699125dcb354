"""PipelineStage: what a rank of one pipeline stage receives and sends in a step, around its decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.ops.reference.torch_ops import wide
from weft.model.models.decoder import Batch
from weft.model.models.transitions import Transitions
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.pipeline_p2p import PipelineTransfer, pipeline_transfers, twin
from weft.parallel.layout.rows import RowTable

IDS_DTYPE = torch.float64
"""Of sampled ids and whether they are one, as ranks of an attention block share them."""


class PipelineStage:
    """The ends of the stage of `rank`. The residual stream comes from the stage before and goes on to the next; sampled
    ids go from the last stage to the first. Every rank exchanges rows with its twin, the rank at its own place there;
    rows that an attention block holds whole go in parts, which the next stage gathers. What has no rows is not sent."""

    def __init__(
        self, shards: Shards, rank: int, transitions: Transitions, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`dtype`: that of activations; the stream is as wide as ranks add it up."""
        layout, self.stage = shards.layout, shards.stage_of(rank)
        self.first, self.last = self.stage == 0, shards.is_last(rank)
        self._transitions, self._dtype, self._device = transitions, wide(dtype), device
        every = pipeline_transfers(layout, shards.config.hidden_size, shards.forward_plan.residual)
        self._takes = {
            each.item: (each, twin(layout, rank, each.sender)) for each in every if each.receiver == self.stage
        }
        self._gives = {
            each.item: (each, twin(layout, rank, each.receiver)) for each in every if each.sender == self.stage
        }

    def arrived(self, batch: Batch) -> Tensor | None:
        """The residual stream of the stage before, waited for; None in the first stage."""
        if "stream" not in self._takes:
            return None
        transfer, peer = self._takes["stream"]
        rows = transfer.rows_of(self._transitions.comm.rank, batch.rows)
        part = self._receive(transfer, peer, rows, self._dtype)
        return self._transitions.run(transfer.gather.name, transfer.gather.steps, part, batch.rows)

    def pass_on(self, x: Tensor, batch: Batch) -> None:
        """The decoder's result to the next stage, if there is one."""
        if "stream" in self._gives:
            transfer, peer = self._gives["stream"]
            part = self._transitions.run(transfer.cut.name, transfer.cut.steps, x, batch.rows)
            self._send(transfer, peer, part, batch.rows)

    @property
    def ids_peer(self) -> int | None:
        """The rank that sampled ids come from or go to; None where they do neither."""
        return next((ends["id"][1] for ends in (self._takes, self._gives) if "id" in ends), None)

    def send_ids(self, values: Tensor, sampled: RowTable) -> None:
        """From the last stage: what the attention block sampled, [rows, 2 or more], of which the first two columns
        go."""
        if "id" in self._gives:
            self._send(*self._gives["id"], values[:, : self._gives["id"][0].width], sampled)

    def id_rows(self, sampled: RowTable) -> int:
        """In the first stage: rows of `received_ids` of a step with these sampled rows."""
        return self._takes["id"][0].rows_of(self._transitions.comm.rank, sampled)

    def received_ids(self, rows: int) -> Tensor:
        """In the first stage: the oldest that were sent and not yet received, of a step that samples `rows` rows of
        this rank's group."""
        return self._receive(*self._takes["id"], rows, IDS_DTYPE)

    def _send(self, transfer: PipelineTransfer, peer: int, x: Tensor, table: RowTable) -> None:
        if transfer.rows_of(self._transitions.comm.rank, table):
            self._transitions.send(transfer, x, peer)

    def _receive(self, transfer: PipelineTransfer, peer: int, rows: int, dtype: torch.dtype) -> Tensor:
        out = torch.empty(rows, transfer.width, dtype=dtype, device=self._device)
        return self._transitions.receive(transfer, out, peer) if rows else out
