"""Whom a rank helps between its queries, keys and values and its own attention. Knows no kernel and no address.

Where heads do not divide, the ranks of a block have more and fewer of them, and meet behind attention's last product.
Who waits there helps the others (`weft/native/lending.h`), but comes too late for products that are the largest of all
in a step of few rows and the first of its half layer: so it helps with these before its own attention.
"""

from __future__ import annotations

from collections.abc import Sequence

from weft.layout.cuts import HeadShare
from weft.layout.ranks import Group
from weft.native.records import Op
from weft.program.values import Instruction


def ease(code: Sequence[Instruction], shares: Sequence[HeadShare], block: Group, rank: int) -> None:
    """Marks the products ahead of attention of a rank that has fewer heads than another one of its block. `shares`: of
    the block's ranks, in their order."""
    position = eased_by(shares, block.index(rank))
    if position is None:
        return
    for linear, attention in zip(code, code[1:], strict=False):
        if linear.op is Op.LINEAR and attention.op is Op.QKV:
            linear.eases = block[position]


def eased_by(shares: Sequence[HeadShare], position: int) -> int | None:
    """Who of a block is helped by the one at `position`: one of those who have the most, each by as many others. None
    where that one has the most itself."""
    columns = [share.q[1] - share.q[0] + 2 * (share.kv[1] - share.kv[0]) for share in shares]
    most = [each for each, count in enumerate(columns) if count == max(columns)]
    fewer = [each for each in range(len(shares)) if each not in most]
    return most[fewer.index(position) % len(most)] if position in fewer else None
