"""Sizes of the second, 8- and 4-bit copy of lm_head, as `native/kernels/argmax_bounds/lm_head_sketch.h` lays it out."""

from __future__ import annotations

PAIR, GROUP = 32, 64
"""Columns of a pair; depth with a step a column."""
FINE_GROUPS = 1
"""Of the codes for few rows so many groups are fine, the others coarse."""
_BESIDE = 2 * PAIR
_FINE, _COARSE = GROUP * PAIR + _BESIDE, GROUP * PAIR // 2 + _BESIDE


def argmax_sketch_bytes(columns: int, depth: int, rows: int, few_only: bool) -> int:
    """Bytes for an lm_head [columns, depth] whose logits are bounded of at most `rows` rows. `few_only`: of more rows
    than a few there are none."""
    pairs, groups = -(-columns // PAIR), -(-depth // GROUP)
    fine = min(groups, FINE_GROUPS)
    few = fine * _FINE + (groups - fine) * _COARSE + 4 * PAIR
    many = 0 if few_only else groups * _FINE + 4 * PAIR
    small = 4 * (2 * groups + 2 * depth + rows * pairs) + 8 * rows
    return pairs * (few + many) + small
