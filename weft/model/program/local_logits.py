"""Where this rank's vocabulary shard of the logits lies before the final all_to_all."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from weft.compute.ops.operations.table import Op
from weft.model.program.ir import Recording, Rows
from weft.model.program.memory_planning import Places
from weft.parallel.layout.layout import Layout


@dataclass(frozen=True, slots=True)
class LocalLogits:
    """Those of a rank's block's rows, before the last instruction brings the columns of all its ranks together:
    `columns` of them from column `first` on, fp32."""

    address: int
    columns: int
    first: int


def local_logits(recording: Recording, layout: Layout, places: Places, base: int) -> LocalLogits | None:
    """None where the last instruction does not bring together the logits of the block's own ranks alone, and where a
    group's rows are those of several blocks. `base`: address of the arena."""
    if layout.attention.cp > 1:
        return None
    last = recording.instructions[-1]
    if last.op is not Op.ALL_TO_ALL or last.plan is None or last.plan.keeps is None:
        return None
    held, group, tp = last.inputs[0].buffer, last.plan.group, layout.attention.tp
    first = group[0] % layout.stage_size
    if len(group) != tp or held.rows != Rows("sampled", first, first + tp):
        return None
    if held.dtype != torch.float32:
        return None
    return LocalLogits(base + places.of[held.storage], held.columns, last.plan.keeps[1].left)
