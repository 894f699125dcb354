"""Pruned argmax: a second, 8- and 4-bit copy of lm_head gives upper bounds on all logits, so that C++ computes only the
few that can be the largest (`native/kernels/argmax_bounds/argmax_pruner.h`). No token changes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.errors import ConfigError
from weft.layout.boundaries import SEVERAL_BLOCKS
from weft.native.isa import NO_ARGMAX_PRUNING
from weft.native.records import Epilogue, WeightKind
from weft.native.runtime_records import ArgmaxPrunerRecord, BoundStreamRecord
from weft.native.step_library import Pool
from weft.ops.base import Numerics
from weft.ops.native.large_pages import large_pages
from weft.ops.native.packed import QUANTIZED, PackedWeight
from weft.ops.operations.dense import BIAS, NORM_WEIGHT, WEIGHT
from weft.ops.operations.table import Op
from weft.program.ir import Recording
from weft.program.local_logits import LocalLogits

PRUNABLE = (WeightKind.BF16, WeightKind.BF16_12BIT, *QUANTIZED)
"""Kinds of matrices whose logits are bounded; of codes whose rows are rounded those of few rows only, for more rows are
multiplied as fast as bounds are found."""


@dataclass(frozen=True, slots=True)
class ArgmaxPruner:
    """`record` points into `memory`: codes for `few` rows and less, codes for any number, and what is small."""

    record: ArgmaxPrunerRecord
    memory: tuple[Tensor, ...]
    few: int

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.memory)

    def bytes_read(self, rows: int) -> int:
        """By a step of so many rows, beside the logits that it computes; 0: it computes all."""
        return self.memory[rows > self.few].nbytes

    @property
    def address(self) -> int:
        """Of the record; valid while this object lives."""
        return ctypes.addressof(self.record)


def pruner_of(recording: Recording, own: LocalLogits | None, rows: int, pool: Pool) -> ArgmaxPruner | str:
    """The pruner of a rank's local logits, of at most `rows` rows a step; or the reason why there is none."""
    if not pool.lib.weft_suits_argmax_pruning():
        return NO_ARGMAX_PRUNING
    if own is None:
        return SEVERAL_BLOCKS
    gives = recording.instructions[own.number]
    weight = gives.tensors.get(WEIGHT)
    if gives.op is not Op.LINEAR or gives.epilogue is not Epilogue.STORE or gives.tensors.get(BIAS) is not None:
        return "logits are more than a product of rows and lm_head"
    if not isinstance(weight, PackedWeight) or weight.kind not in PRUNABLE or weight.interleaved:
        return "lm_head is neither bfloat16 nor quantized"
    if gives.inputs[0].buffer.dtype != torch.bfloat16:
        return "rows that lm_head is multiplied with are not bfloat16"
    weighs = _last_norm(recording, weight.shape[1])
    return made(weight, own.number, rows, pool, weighs) or "a number of lm_head is not finite"


def _last_norm(recording: Recording, depth: int) -> Tensor | None:
    """How much a row weighs at each place of the depth, as far as its norm says."""
    for each in reversed(recording.instructions):
        if each.op is Op.NORM:
            found = each.tensors[NORM_WEIGHT]
            return found.float().abs() if isinstance(found, Tensor) and found.shape == (depth,) else None
    return None


def check_asked(numerics: Numerics, pruner: ArgmaxPruner | str) -> None:
    """ConfigError where pruning is asked for and `pruner` is the reason why there is none."""
    if numerics.prune_argmax and isinstance(pruner, str):
        message = f"prune_argmax: {pruner}; leave --prune-argmax out"
        raise ConfigError(message, field="prune_argmax", value=True)


def made(weight: PackedWeight, number: int, rows: int, pool: Pool, weighs: Tensor | None = None) -> ArgmaxPruner | None:
    """Of a matrix that instruction `number` multiplies at most `rows` rows with; None where a number is not finite.
    `weighs`: about how much rows weigh at each place of the depth."""
    depth = weight.shape[1]
    sizes = (ctypes.c_int64 * 7)()
    pool.lib.weft_argmax_pruner_sizes(weight.address, sizes)
    groups, pairs, fine_of_few, few_bytes, fine_of_many, many_bytes, few = sizes
    codes = large_pages(few_bytes), large_pages(0 if weight.record.int8_activations else many_bytes)
    streams = [
        BoundStreamRecord(part.data_ptr() if len(part) else None, fine, groups)
        for part, fine in zip(codes, (fine_of_few, fine_of_many), strict=True)
    ]
    weighs = torch.ones(depth) if weighs is None else weighs.nan_to_num()
    order = weighs.argsort(descending=True, stable=True).int()
    numbers = torch.zeros(groups), torch.zeros(groups), torch.zeros(depth)
    found = torch.zeros(rows, pairs), torch.zeros(rows, dtype=torch.int64)
    small = (*numbers, order, *found)
    record = ArgmaxPrunerRecord(number, 0, *streams, *(part.data_ptr() for part in small))
    pruner = ArgmaxPruner(record, (*codes, *small), few)
    return pruner if pool.lib.weft_argmax_pruner_pack(pool.handle, weight.address, pruner.address) else None
