"""The order of the rows that latent attention multiplies by: rotated pairs half a head apart, keys and values apart.

Checkpoints may have rotated pairs side by side; every row is moved once, as a matrix is loaded or a layer is built.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.parallel.arch.config import MLAConfig


def arranged_queries(weight: Tensor, mla: MLAConfig) -> Tensor:
    """q_b [A * (nope + R), ...] with the rotated rows of each head in order."""
    return _rotated_rows(weight, weight.shape[0] // mla.qk_dim, mla.nope_dim, mla)


def arranged_latent(weight: Tensor, mla: MLAConfig) -> Tensor:
    """kv_a [L + R, H] with the rotated rows in order."""
    return _rotated_rows(weight, 1, mla.kv_lora_rank, mla)


def unfolded(weight: Tensor, mla: MLAConfig) -> tuple[Tensor, Tensor]:
    """kv_b [A * (nope + v), L] -> what carries a query to the latent's space [A * L, nope], and what unfolds a latent
    to values [A * v, L]; a matrix for each head, one below the other."""
    both = weight.view(-1, mla.nope_dim + mla.v_dim, mla.kv_lora_rank)
    to_latent = both[:, : mla.nope_dim].transpose(1, 2).reshape(-1, mla.nope_dim)
    return to_latent, both[:, mla.nope_dim :].reshape(-1, mla.kv_lora_rank)


def _rotated_rows(weight: Tensor, heads: int, kept: int, mla: MLAConfig) -> Tensor:
    """`weight` with the last rows of each head in order."""
    if not mla.interleaved:
        return weight
    order = torch.cat((torch.arange(0, mla.rope_dim, 2), torch.arange(1, mla.rope_dim, 2))).to(weight.device)
    rows = weight.view(heads, weight.shape[0] // heads, weight.shape[1])
    return torch.cat((rows[:, :kept], rows[:, kept:][:, order]), 1).flatten(0, 1).contiguous()
