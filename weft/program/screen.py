"""A screen of the matrix that gives logits: it once more in 8 bits a number, by which C++ bounds all logits and
computes few of them where only the largest is asked for (`native/step/screen.h`). No token changes. Knows no step.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.errors import ConfigError
from weft.native.records import BIAS, WEIGHT, Epilogue, Op, ScreenRecord, WeightKind
from weft.native.step_library import Pool
from weft.ops.base import Numerics
from weft.ops.large_pages import large_pages
from weft.ops.packed import PackedWeight
from weft.program.own_logits import OwnLogits
from weft.program.values import Recording

SCREENED = (WeightKind.BF16, WeightKind.BF12)
"""Kinds of matrices whose logits are bounded; codes are half as long already."""


@dataclass(frozen=True, slots=True)
class Screen:
    """`record` points into `memory`."""

    record: ScreenRecord
    memory: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.memory)

    @property
    def bytes_of_bounds(self) -> int:
        """That a step reads, however few its rows."""
        return sum(part.nbytes for part in self.memory[:2])

    @property
    def address(self) -> int:
        """Of the record; valid while this object lives."""
        return ctypes.addressof(self.record)


def screen_of(recording: Recording, own: OwnLogits | None, rows: int, pool: Pool) -> Screen | str:
    """The screen of a rank's own logits, of which a step has at most `rows` rows; or why there is none, in words."""
    if not pool.lib.weft_suits_screen():
        return "this CPU's vectors do not multiply both bytes and pairs of bf16"
    if own is None:
        return "ranks of several attention blocks bring their logits together"
    gives = recording.instructions[own.number]
    weight = gives.tensors.get(WEIGHT)
    if gives.op is not Op.LINEAR or gives.epilogue is not Epilogue.STORE or gives.tensors.get(BIAS) is not None:
        return "logits are more than a product of rows and lm_head"
    if not isinstance(weight, PackedWeight) or weight.kind not in SCREENED or weight.interleaved:
        return "lm_head's numbers are not those of bfloat16"
    if gives.inputs[0].buffer.dtype != torch.bfloat16:
        return "rows that lm_head is multiplied with are not bfloat16"
    return made(weight, own.number, rows, pool) or "a number of lm_head is not finite"


def check_asked(numerics: Numerics, screen: Screen | str) -> None:
    """ConfigError where a screen is asked for, and there is none, for the reason that `screen` is."""
    if numerics.screen_logits and isinstance(screen, str):
        message = f"screen_logits: {screen}; leave --screen-logits out"
        raise ConfigError(message, field="screen_logits", value=True)


def made(weight: PackedWeight, number: int, rows: int, pool: Pool) -> Screen | None:
    """Of a matrix that instruction `number` multiplies at most `rows` rows with; None where a number is not finite."""
    sizes = (ctypes.c_int64 * 4)()
    pool.lib.weft_screen_sizes(weight.address, sizes)
    codes, steps, groups, pairs = sizes
    memory = tuple(large_pages(size) for size in (codes, steps, groups, rows * pairs * 4, rows * 8))
    code, step, group, *rest = (part.data_ptr() for part in memory)
    screen = Screen(ScreenRecord(number, 0, code, step, group, group + groups // 2, *rest), memory)
    return screen if pool.lib.weft_screen_pack(pool.handle, weight.address, screen.address) else None
