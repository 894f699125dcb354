"""Which experts a row goes to, and with what weights. Plain torch, any device.

Sources: Mixtral and Qwen3-MoE (softmax, top-k), DeepSeek-V2 (groups by their best expert), DeepSeek-V3 (sigmoid, groups
by their two best, a bias that steers the choice but not the weights).
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.parallel.arch.config import MoEConfig


def route(logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
    """(experts [N, k], weights [N, k]) in the dtype of logits [N, E], best first; ties go to the lowest expert."""
    scores = torch.softmax(logits, -1) if moe.score == "softmax" else torch.sigmoid(logits)
    choice = scores if correction is None else scores + correction.to(scores.dtype)
    if moe.groups > 1:
        choice = choice.masked_fill(~_kept(choice, moe), -torch.inf)
    experts = _best(choice, moe.top_k)
    weights = scores.gather(-1, experts)
    if moe.normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return experts, weights * moe.scale


def _kept(choice: Tensor, moe: MoEConfig) -> Tensor:
    """Whether an expert's group is one of the best groups: [N, E]."""
    grouped = choice.view(choice.shape[0], moe.groups, choice.shape[1] // moe.groups)
    ranked = torch.sort(grouped, dim=-1, descending=True, stable=True).values
    score = ranked[..., : moe.group_best].sum(-1)
    kept = torch.zeros_like(score, dtype=torch.bool).scatter_(-1, _best(score, moe.top_groups), True)
    return kept.repeat_interleave(choice.shape[-1] // moe.groups, dim=-1)


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the largest, the lowest index first among equals (which topk does not promise)."""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :count]
