"""A product of rows and a matrix in Triton, the kernel. Called by `triton_product.py`, which says what is computed.

Untyped: Triton compiles these functions, and takes an annotation for a constant of the program.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(
    out, x, weight, bias, rows, columns, depth, x_row, weight_row, BIAS: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A program: ROWS x COLUMNS of x @ weight.T + bias. EVEN: DEPTH divides the depth."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    there, real, step = row < rows, column < columns, tl.arange(0, DEPTH)
    a = x + row[:, None] * x_row + step[None, :]
    b = weight + column[None, :] * weight_row + step[:, None]
    found = tl.zeros([ROWS, COLUMNS], tl.float32)
    for begin in range(0, depth, DEPTH):
        if EVEN:
            left = tl.load(a, mask=there[:, None], other=0.0)
            right = tl.load(b, mask=real[None, :], other=0.0)
        else:
            inside = begin + step < depth
            left = tl.load(a, mask=there[:, None] & inside[None, :], other=0.0)
            right = tl.load(b, mask=real[None, :] & inside[:, None], other=0.0)
        found = tl.dot(left, right, found)
        a += DEPTH
        b += DEPTH
    if BIAS:
        found += tl.load(bias + column, mask=real, other=0.0).to(tl.float32)[None, :]
    place = out + row[:, None] * columns + column[None, :]
    tl.store(place, found.to(out.dtype.element_ty), mask=there[:, None] & real[None, :])
