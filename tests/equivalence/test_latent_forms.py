"""Latent attention in its naive form, keys and values unfolded per head from the cached latents, is the answer key of
the absorbed form that the product runs; through the real engine, on one rank, with heads over ranks, and with dp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weft.model.models.build as build
from tests.equivalence.harness import MIXED, largest_difference, make_executor, run_workload
from tests.support.exact_model import write_random
from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.base import Numerics
from weft.compute.ops.weights import plain
from weft.model.layers import LatentAttention
from weft.model.layers.base import Params
from weft.parallel.layout.resolve import resolve


class NaiveLatentAttention(LatentAttention):
    """As DeepSeek-V2's report writes it (2.1.2): k_nope and v of every cached token and head, a plain softmax."""

    def __init__(self, params: Params, name: str, *args: Any) -> None:
        super().__init__(params, name, *args)
        rows = self.mla.nope_dim + self.mla.v_dim
        self.unfold = plain(params[f"{name}.kv_b.weight"]).view(self.own_heads, rows, self.mla.kv_lora_rank)

    def queries(self, x_NH: Tensor, meta: AttentionMeta, cache: KVCache) -> Tensor:
        q, latent = self._projected(x_NH), self.ops.linear(x_NH, self.kv_a, None)
        q_nope = q.view(len(q), self.own_heads, self.mla.qk_dim)[..., : self.mla.nope_dim]
        carried = self.ops.latent_queries(q, latent, self.way, meta, cache)
        return torch.cat((q_nope, carried[..., self.mla.kv_lora_rank :]), -1)

    def attend(self, q: Tensor, meta: AttentionMeta, cache: KVCache) -> Tensor:
        found = q.new_zeros(len(q), self.own_heads, self.mla.v_dim)
        for row, position in enumerate(meta.positions.tolist()):
            blocks = meta.block_tables[int(meta.run_of_row[row])].long()
            latents = cache.k[blocks].flatten(0, 2)[: position + 1].to(q.dtype)
            k_nope, v = self.keys_and_values(latents[:, : self.mla.kv_lora_rank])
            k_rope = latents[:, None, self.mla.kv_lora_rank :].expand(-1, self.own_heads, -1)
            scores = torch.einsum("hd,thd->ht", q[row], torch.cat((k_nope, k_rope), -1))
            found[row] = torch.einsum("ht,thv->hv", torch.softmax(scores * self.spec.scale, -1), v)
        return found.flatten(1)

    def keys_and_values(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[T, L] -> k_nope [T, A, nope] and v [T, A, value dim]."""
        both = torch.einsum("tl,hdl->thd", latents, self.unfold)
        return both[..., : self.mla.nope_dim], both[..., self.mla.nope_dim :]


class SwappedKeys(NaiveLatentAttention):
    """A head's keys are its neighbour's."""

    def keys_and_values(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        k, v = super().keys_and_values(latents)
        return k.roll(1, 1), v


SIZES = (
    {"attention.tp": 1},
    {"attention.tp": 2},
    {"attention.tp": 3},
    {"attention.dp": 2},
    {"attention.tp": 2, "attention.dp": 2},
)


def difference(path: Path, given: dict[str, object], dtype: torch.dtype, key: type[LatentAttention]) -> float:
    """Between the naive form on one rank and the absorbed one under a layout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "LatentAttention", key)
        naive = run_workload(make_executor(path, resolve({}, num_experts=6), Numerics(dtype)), MIXED)
    layout = resolve(given, num_experts=6)
    absorbed = run_workload(make_executor(path, layout, Numerics(dtype)), MIXED)
    assert [one.tokens for one in naive] == [one.tokens for one in absorbed] or key is SwappedKeys
    return largest_difference(naive, absorbed)


@pytest.mark.parametrize("given", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["fp64", "fp32"])
def test_absorbed_equals_naive(given: dict[str, object], dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    path = write_random(tmp_path, "latent")
    assert 0 < difference(path, given, dtype, NaiveLatentAttention) < tolerance


@pytest.mark.parametrize("given", SIZES[:2], ids=str)
def test_naive_under_a_layout_equals_absorbed_on_one_rank(given: dict[str, object], tmp_path: Path) -> None:
    path = write_random(tmp_path, "latent")
    absorbed = run_workload(make_executor(path, resolve({}, num_experts=6), Numerics(torch.float64)), MIXED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "LatentAttention", NaiveLatentAttention)
        naive = run_workload(make_executor(path, resolve(given, num_experts=6), Numerics(torch.float64)), MIXED)
    assert largest_difference(naive, absorbed) < 1e-10


def test_another_heads_keys_are_seen(tmp_path: Path) -> None:
    assert difference(write_random(tmp_path, "latent"), {}, torch.float64, SwappedKeys) > 1e-3
