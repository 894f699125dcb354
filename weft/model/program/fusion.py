"""Fusion: rewrites of a recording that save passes over memory.

A rewrite removes a buffer only if no other instruction reads it. In the exact model, fp32 and fp64 no result changes;
bf16 is rounded less often, where a sum stays in fp32 on its way to the next instruction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from weft.compute.native.records import Epilogue
from weft.compute.ops.operations.dense import BIAS, EPILOGUE
from weft.compute.ops.operations.table import Op
from weft.model.program.ir import Buffer, Instruction, Recording


def optimize(recording: Recording, *, rounds_alike: bool = False) -> Recording:
    """The same program in fewer instructions. `rounds_alike`: bf16 keeps the bits of operations one by one."""
    code = list(recording.instructions)
    rounded_less = () if rounds_alike else (_keep_sums_of_heads, _bias_in_linear, _add_in_linear)
    for rewrite in (_widen_embedding, *rounded_less, _add_in_norm):
        code = rewrite(code)
    return Recording(tuple(code), recording.logits)


def _widen_embedding(code: list[Instruction]) -> list[Instruction]:
    """EMBED, COPY to fp32: the embedding writes fp32 itself."""

    def merge(first: Instruction, second: Instruction) -> Instruction | None:
        if first.op is not Op.EMBED or second.op is not Op.COPY or second.plan is not None:
            return None
        first.out = second.out
        return first

    return _merge_pairs(code, merge)


def _keep_sums_of_heads(code: list[Instruction]) -> list[Instruction]:
    """What only the qkv step reads stays in the width in which it was added up."""
    uses = _Uses(code)
    for first, second in zip(code, code[1:], strict=False):
        if first.op is Op.LINEAR and second.op is Op.QKV and uses.one_way(first, second):
            first.out.buffer.dtype = torch.promote_types(first.out.buffer.dtype, torch.float32)
    return code


def _bias_in_linear(code: list[Instruction]) -> list[Instruction]:
    """LINEAR, ADD_BIAS."""

    def merge(first: Instruction, second: Instruction) -> Instruction | None:
        if first.op is not Op.LINEAR or second.op is not Op.ADD_BIAS or second.out.buffer is not first.out.buffer:
            return None
        first.tensors[BIAS] = second.tensors[BIAS]
        return first

    return _merge_pairs(code, merge, overwritten=True)


def _add_in_linear(code: list[Instruction]) -> list[Instruction]:
    """LINEAR, ADD to the residual stream: the sums are added as they leave the registers."""

    def merge(first: Instruction, second: Instruction) -> Instruction | None:
        if first.op is not Op.LINEAR or second.op is not Op.ADD or first.epilogue is not Epilogue.STORE:
            return None
        first.numbers[EPILOGUE] = Epilogue.ADD_TO
        first.out = second.out
        return first

    return _merge_pairs(code, merge)


def _add_in_norm(code: list[Instruction]) -> list[Instruction]:
    """ADD to the residual stream, NORM of it: a row is normed while it is at hand. Others may read it too."""

    def merge(first: Instruction, second: Instruction) -> Instruction | None:
        if first.op is not Op.ADD or second.op is not Op.NORM or second.inputs != (first.out,):
            return None
        second.inputs = (first.out, *first.inputs)
        return second

    return _merge_pairs(code, merge, overwritten=True)


def _merge_pairs(
    code: list[Instruction],
    merge: Callable[[Instruction, Instruction], Instruction | None],
    overwritten: bool = False,
) -> list[Instruction]:
    """Neighbours of which the second alone reads the first's result. `overwritten`: it keeps what that gave."""
    uses = None if overwritten else _Uses(code)
    done: list[Instruction] = []
    for instruction in code:
        before = done[-1] if done else None
        if before is not None and (uses is None or uses.one_way(before, instruction)):
            merged = merge(before, instruction)
            if merged is not None:
                done[-1] = merged
                continue
        done.append(instruction)
    return done


class _Uses:
    """The instructions that read and that write each buffer."""

    def __init__(self, code: Sequence[Instruction]) -> None:
        self._readers: dict[Buffer, list[Instruction]] = defaultdict(list)
        self._writers: dict[Buffer, list[Instruction]] = defaultdict(list)
        for each in code:
            self._writers[each.out.buffer].append(each)
            for buffer in {view.buffer for view in (*each.inputs, *each.views.values())}:
                self._readers[buffer].append(each)

    def one_way(self, first: Instruction, second: Instruction) -> bool:
        """Whether `second` alone reads what `first` gave, and as it is."""
        readers, writers = self._readers[first.out.buffer], self._writers[first.out.buffer]
        alone = len(readers) == len(writers) == 1 and readers[0] is second and writers[0] is first
        return alone and second.inputs[0] == first.out
