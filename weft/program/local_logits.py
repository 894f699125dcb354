"""Where this rank's vocabulary shard of the logits lies before the final all_to_all."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from weft.layout.layout import Layout
from weft.ops.operations.table import Op
from weft.program.ir import Buffer, Recording, Rows
from weft.program.memory_planning import Places


@dataclass(frozen=True, slots=True)
class LocalLogits:
    """Those of a rank's block's rows, before the last instruction brings the columns of all its ranks together, or what
    the last instruction gives: `columns` of them from column `first` on, fp32, by instruction `number`."""

    address: int
    columns: int
    first: int
    number: int


def local_logits(recording: Recording, layout: Layout, places: Places, base: int) -> LocalLogits | None:
    """None where the last instruction neither gives all logits nor brings together those of the block's own ranks
    alone, and where a group's rows are those of several blocks. `base`: address of the arena."""
    if layout.attention.cp > 1:
        return None
    last, before = recording.instructions[-1], len(recording.instructions) - 2
    if last.op is Op.LINEAR and layout.attention.tp == 1 and last.out.buffer is recording.logits.buffer:
        return _at(last.out.buffer, 0, before + 1, places, base)
    if last.op is not Op.ALL_TO_ALL or last.plan is None or last.plan.keeps is None:
        return None
    held, group, tp = last.inputs[0].buffer, last.plan.group, layout.attention.tp
    first = group[0] % layout.stage_size
    if len(group) != tp or held.rows != Rows("sampled", first, first + tp):
        return None
    return _at(held, last.plan.keeps[1].left, before, places, base)


def _at(held: Buffer, first: int, number: int, places: Places, base: int) -> LocalLogits | None:
    if held.dtype != torch.float32:
        return None
    return LocalLogits(base + places.of[held.storage], held.columns, first, number)
