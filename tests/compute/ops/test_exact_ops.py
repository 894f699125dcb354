"""The exact operations: results on the grid, sums that no order changes, and a bound that is really looked at."""

from __future__ import annotations

import pytest
import torch

from tests.compute.ops.paged_cases import Sizes, attended, dense_attention, paged
from weft.base.errors import WeftError
from weft.compute.ops import Numerics, make_ops
from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.base import RotaryTables
from weft.compute.ops.reference.exact_ops import ExactOps, on_grid, snap
from weft.compute.ops.reference.rope import build_cos_sin
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.parallel.arch.config import RopeConfig

CPU = torch.device("cpu")
EXACT = Numerics(torch.float32, exact=True)


def grid(*shape: int, most: int = 24) -> torch.Tensor:
    return torch.randint(-most, most + 1, shape).float() / 64


def test_make_ops_gives_it_and_its_cache_is_fp64() -> None:
    ops = make_ops(EXACT, "cpu")
    assert isinstance(ops, ExactOps) and ops.describe().startswith("exact") and EXACT.cache_dtype == torch.float64


def test_snap_rounds_and_clamps() -> None:
    got = snap(torch.tensor([0.0, 1 / 128, 3 / 128, -0.3, 4.1, -9.0, 1 / 200], dtype=torch.float64))
    assert got.dtype == torch.float32 and on_grid(got)
    assert got.tolist() == [0.0, 0.0, 2 / 64, -19 / 64, 4.0, -4.0, 0.0]


def test_results_are_on_the_grid() -> None:
    ops, size = ExactOps(EXACT, CPU), 4
    x = grid(6, 32)
    q, k, v = torch.randn(6, 4, 8), torch.randn(6, 2, 8), torch.randn(6, 2, 8)
    k_cache, v_cache = (torch.zeros(4, 2, size, 8, dtype=torch.float64) for _ in range(2))
    cache = KVCache(k_cache, v_cache)
    order = torch.arange(6).int()
    meta = AttentionMeta(order, order + size, torch.zeros(6).int(), torch.tensor([[1, 2]]).int(), (6,))
    turned = ops.rope_and_cache(
        q, k, v, RotaryTables(build_cos_sin(RopeConfig(), 8, 9, dtype=torch.float64)), meta, cache
    )
    found = attended(ops, turned, cache, torch.tensor([0, 0, 1, 1]).int(), 8**-0.5, meta, 0)
    results = [ops.rms_norm(x, grid(32), 1e-5), ops.silu_mul(x), turned, found]
    for result in results:
        assert result.dtype == torch.float32 and on_grid(result) and result.abs().max() <= 4
    assert on_grid(cache.k) and on_grid(cache.v) and torch.equal(cache.v[1, :, 0], snap(v[0]).double())


def test_attention_is_snapped_fp64_attention() -> None:
    sizes, runs = Sizes((0, 0, 1), 2, 8, 4), ((0, 20, 1), (30, 2, 2))
    case = paged(sizes, runs, torch.float64)
    ops = ExactOps(EXACT, CPU)
    out = attended(ops, case.q.float(), case.cache, case.kv_of_head, sizes.scale, case.meta, 0)
    twin = attended(
        TorchOps(Numerics(torch.float64), CPU),
        case.q.float().double(),
        case.cache,
        case.kv_of_head,
        sizes.scale,
        case.meta,
    )
    assert torch.equal(out, snap(twin))
    assert (out - dense_attention(sizes, runs, torch.float64)).abs().max() < 1 / 64


def test_any_split_of_a_sum_is_the_same() -> None:
    ops, x, weight, bias = ExactOps(EXACT, CPU), grid(5, 96, most=256), grid(40, 96), grid(40)
    whole = ops.linear(x, weight, bias)
    parts = [ops.linear(x[:, lo:hi].contiguous(), weight[:, lo:hi].contiguous(), None) for lo, hi in ((0, 7), (7, 96))]
    assert torch.equal(parts[1] + parts[0] + bias, whole)
    assert torch.equal(whole.double(), x.double() @ weight.double().T + bias.double())


def test_the_bound_is_looked_at() -> None:
    ops = ExactOps(EXACT, CPU)
    weight = torch.full((2, 2048), 0.5)
    ops.linear(torch.full((1, 2048), 3.984375), weight, None)
    with pytest.raises(WeftError, match="not below 2\\^24"):
        ops.linear(torch.full((1, 2048), 4.0), weight, None)
    with pytest.raises(WeftError, match="not below 2\\^24"):
        ops.linear(torch.full((1, 2048), 3.984375), weight, torch.full((2,), 64.0))
    with pytest.raises(WeftError, match="not below"):
        ops.linear(torch.full((1, 2048), torch.nan), weight, None)


def test_weights_off_the_grid_are_an_error() -> None:
    with pytest.raises(WeftError, match="multiples of 2\\^-6"):
        ExactOps(EXACT, CPU).linear(grid(1, 4), torch.full((2, 4), 0.01), None)


def test_rows_off_the_grid_are_an_error_where_asked() -> None:
    x, weight = torch.full((1, 4), 0.01), grid(2, 4)
    ExactOps(EXACT, CPU).linear(x, weight, None)
    with pytest.raises(WeftError, match="rows are not multiples"):
        ExactOps(EXACT, CPU, check_inputs=True).linear(x, weight, None)


def test_a_weight_is_looked_at_once() -> None:
    ops, weight = ExactOps(EXACT, CPU), grid(3, 4)
    ops.linear(grid(1, 4), weight, None)
    assert ops._largest_of(weight) == float(weight.abs().max()) and len(ops._largest) == 1
    del weight
    assert len(ops._largest) == 0


def test_no_rows() -> None:
    ops = ExactOps(EXACT, CPU)
    assert ops.linear(torch.empty(0, 4), grid(3, 4), None).shape == (0, 3)
    assert ops.check_batch_invariance([grid(3, 4)]).holds
