"""Log-probabilities of chosen and of likeliest ids. Pure functions of raw logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def logprobs_of(raw: Tensor, ids: Tensor, most: int) -> Tensor:
    """[rows, 2 + 2 * most] fp64: log-probability and rank (1: no token has a larger logit) of ids, the `most`
    likeliest ids, theirs."""
    logprobs = torch.log_softmax(raw, -1)
    chosen = logprobs.gather(-1, ids[:, None])
    rank = 1 + (raw > raw.gather(-1, ids[:, None])).sum(-1, keepdim=True)
    columns = [chosen.double(), rank.double()]
    if most:
        likeliest = _likeliest(raw, most)
        columns += [likeliest.double(), logprobs.gather(-1, likeliest).double()]
    return torch.cat(columns, -1)


def put_named(columns: Tensor, raw: Tensor, named: Mapping[int, Sequence[int]]) -> None:
    """Into the alternatives [m, 2 * most] of rows those that were named, likeliest first, the lower id among equals."""
    most, longest = columns.shape[1] // 2, max(map(len, named.values()))
    padded = [sorted(ids) + [-1] * (longest - len(ids)) for ids in named.values()]
    rows, ids = torch.tensor(list(named), device=raw.device), torch.tensor(padded, device=raw.device)
    logprobs = torch.log_softmax(raw[rows], -1).gather(-1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)
    order = logprobs.argsort(dim=-1, descending=True, stable=True)
    extras = columns[rows]
    extras[:, :longest] = ids.gather(-1, order)
    extras[:, most : most + longest] = logprobs.gather(-1, order)
    columns.index_copy_(0, rows, extras)


def _likeliest(raw: Tensor, most: int) -> Tensor:
    """Ids [rows, most] by logit, the lower id first among equals (which torch's topk does not promise)."""
    edge = raw.topk(most, -1).values[:, -1:]
    rows, ids = (part.cpu().numpy() for part in (raw >= edge).nonzero(as_tuple=True))
    logits = raw[torch.from_numpy(rows).to(raw.device), torch.from_numpy(ids).to(raw.device)].cpu().numpy()
    order = np.lexsort((ids, -logits, rows))
    rows, ids = rows[order], ids[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    found = np.zeros((raw.shape[0], most), np.int64)
    inside = places < most
    found[rows[inside], places[inside]] = ids[inside]
    return torch.from_numpy(found).to(raw.device)
