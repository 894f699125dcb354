"""Traces latent attention: latents to the cache, queries in the latent's space."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.native.records import (
    COS_SIN,
    EPILOGUE,
    EPS,
    HEAD_DIM,
    IN_STEP,
    K_NORM,
    OUT_STEP,
    Q_HEADS,
    ROPE_DIM,
    WEIGHTS,
    Epilogue,
    Op,
)
from weft.ops.base import Latents
from weft.ops.native.packed import PackedSlots
from weft.ops.weights import Weight
from weft.program.ir import NotTraceableError
from weft.program.tape import Tape


def trace_latent(tape: Tape, q: Tensor, latent: Tensor, way: Latents, layer: int) -> Tensor:
    """Queries [N, A * (L + R)]; the latents of the rows go to the cache of `layer`."""
    heads, dim, dtype = len(_packed(tape, way.to_latent).slots), tape.view(latent).columns, q.dtype
    view = tape.view(q)
    out = tape.new(view.buffer.rows, heads * dim, dtype)
    found = tape.add(Op.LATENT, out, view, latent)
    found.cache = layer
    found.numbers |= {Q_HEADS: heads, HEAD_DIM: dim, ROPE_DIM: way.cos_sin.shape[1]}
    found.floats[EPS] = way.eps
    found.tensors |= {COS_SIN: way.cos_sin, K_NORM: way.norm}
    _note_product(tape, q, way.to_latent, out, dim)
    return out


def trace_per_head(tape: Tape, x: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
    """Each head's own product [N, A * M]."""
    columns = weight.shape[0]
    out = tape.new(tape.view(x).buffer.rows, columns, dtype)
    _note_product(tape, x, weight, out, columns // len(_packed(tape, weight).slots))
    return out


def _note_product(tape: Tape, x: Tensor, weight: Weight, out: Tensor, step: int) -> None:
    """`step`: columns of `out` from head to head."""
    packed = _packed(tape, weight)
    heads, given = len(packed.slots), tape.view(x)
    found = tape.emit(Op.PER_HEAD, tape.view(out), given)
    found.numbers |= {Q_HEADS: heads, IN_STEP: given.columns // heads, OUT_STEP: step, EPILOGUE: Epilogue.STORE}
    found.tensors[WEIGHTS] = packed


def _packed(tape: Tape, weight: Weight) -> PackedSlots:
    if not isinstance(weight, PackedSlots):
        raise NotTraceableError(f"{tape.module}: a matrix that is not packed")
    return weight
