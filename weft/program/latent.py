"""How latent attention is noted: latents to the cache, queries in the latent's space. Knows no kernel, no address."""

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
from weft.ops.packed import PackedSlots
from weft.ops.weights import Weight
from weft.program.notes import Notes
from weft.program.values import NotRecordableError


def note_latent(notes: Notes, q: Tensor, latent: Tensor, way: Latents, layer: int) -> Tensor:
    """Queries [N, A * (L + R)]; the latents of the rows go to the cache of `layer`."""
    heads, dim, dtype = len(_packed(notes, way.to_latent).slots), notes.view(latent).columns, q.dtype
    view = notes.view(q)
    out = notes.new(view.buffer.rows, heads * dim, dtype)
    found = notes.add(Op.LATENT, out, view, latent)
    found.cache = layer
    found.numbers |= {Q_HEADS: heads, HEAD_DIM: dim, ROPE_DIM: way.cos_sin.shape[1]}
    found.floats[EPS] = way.eps
    found.tensors |= {COS_SIN: way.cos_sin, K_NORM: way.norm}
    _note_product(notes, q, way.to_latent, out, dim)
    return out


def note_per_head(notes: Notes, x: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
    """Each head's own product [N, A * M]."""
    columns = weight.shape[0]
    out = notes.new(notes.view(x).buffer.rows, columns, dtype)
    _note_product(notes, x, weight, out, columns // len(_packed(notes, weight).slots))
    return out


def _note_product(notes: Notes, x: Tensor, weight: Weight, out: Tensor, step: int) -> None:
    """`step`: columns of `out` from head to head."""
    packed = _packed(notes, weight)
    heads, given = len(packed.slots), notes.view(x)
    found = notes.note(Op.PER_HEAD, notes.view(out), given)
    found.numbers |= {Q_HEADS: heads, IN_STEP: given.columns // heads, OUT_STEP: step, EPILOGUE: Epilogue.STORE}
    found.tensors[WEIGHTS] = packed


def _packed(notes: Notes, weight: Weight) -> PackedSlots:
    if not isinstance(weight, PackedSlots):
        raise NotRecordableError(f"{notes.module}: a matrix that is not packed")
    return weight
