"""Which implementation serves, and what start-up says of it."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

import weft.compute.ops
from tests.compute.ops.paged_cases import attended
from tests.support.native_libraries import need
from weft.compute.ops import Numerics, make_ops
from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.base import HeadNorms, Heads, RotaryTables
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.compute.ops.weights import Use, Weight


def test_kernels_serve_where_they_are_built() -> None:
    need("step")
    ops = make_ops(Numerics(torch.bfloat16), "cpu")
    assert isinstance(ops, StepOps)
    assert ops.describe().startswith("step library (") and "weights packed" in ops.describe()


def test_without_kernels_the_twin_serves_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_NATIVE", "0")
    ops = make_ops(Numerics(torch.float32), "cpu")
    assert type(ops) is TorchOps
    assert "no C++ kernels" in ops.describe() and "WEFT_NATIVE=0" in ops.describe() and "slow" in ops.describe()


def test_a_dtype_without_kernels_is_named() -> None:
    ops = make_ops(Numerics(torch.float16), "cpu")
    assert type(ops) is TorchOps and "none for float16" in ops.describe()


def test_another_device_gets_the_twin() -> None:
    ops = make_ops(Numerics(torch.bfloat16), "cuda")
    assert type(ops) is TorchOps and ops.describe().startswith("torch on cuda; linear direct")


def test_kernels_that_do_not_run_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not imported here: where there is no device, there may be no Triton either."""
    stand_in = ModuleType("weft.compute.ops.cuda.triton_ops")
    broken = "Triton's kernels do not run here (no cc)"
    vars(stand_in).update(DTYPES=(torch.bfloat16,), why_broken=lambda device: broken)
    monkeypatch.setitem(sys.modules, "weft.compute.ops.cuda.triton_ops", stand_in)
    monkeypatch.setattr(weft.compute.ops, "triton_ops", stand_in, raising=False)
    monkeypatch.setattr(weft.compute.ops, "find_spec", lambda name: object())
    said = make_ops(Numerics(torch.bfloat16), "cuda").describe()
    assert said == f"torch on cuda; linear direct; {broken}: attention copies its keys, which is slow"
    assert "take no float64" in make_ops(Numerics(torch.float64), "cuda").describe()
    monkeypatch.setattr(weft.compute.ops, "find_spec", lambda name: None)
    assert "Triton is not installed" in make_ops(Numerics(torch.bfloat16), "cuda").describe()


def test_the_check_speaks_of_the_form_in_use() -> None:
    ops = make_ops(Numerics(torch.float32), "cpu")
    report = ops.check_batch_invariance([torch.randn(64, 32), torch.randn(48, 64)], seconds=60)
    assert report.holds and report.checked == 2 and report.form in ops.describe()


def test_a_rank_without_rows_goes_through_packed_operations() -> None:
    """What a rank runs beside others that have rows: products, q and k into the cache, attention over a packed one."""
    need("step")
    ops = make_ops(Numerics(torch.bfloat16), "cpu")
    assert isinstance(ops, StepOps)
    dim, width = 8, 24
    none = torch.empty(0, dtype=torch.int32)
    meta = AttentionMeta(none, none, none, torch.zeros(0, 1, dtype=torch.int32), ())
    both = torch.zeros(4, 1, 2, 16, dim, dtype=torch.bfloat16)
    cache, before = KVCache(both[:, :, 0], both[:, :, 1], packed=True), both.clone()
    x = torch.empty(0, width, dtype=torch.bfloat16)

    def packed(rows: int, use: Use) -> Weight:
        return ops.prepare(torch.randn(rows, width).to(torch.bfloat16), use)

    assert ops.embedding(none.long(), packed(32, Use.HEAD), 0).shape == (0, width)
    qkv = ops.linear(x, packed(5 * dim, Use.LINEAR), None)
    norms = HeadNorms(torch.ones(dim), torch.ones(dim), 1e-6)
    for given in (None, norms):
        q = ops.qkv(qkv, Heads(3, 1, dim, RotaryTables(torch.zeros(4, dim)), given), meta, cache)
        assert q.shape == (0, 3, dim)
    kv_of_head = torch.zeros(3, dtype=torch.int32)
    assert attended(ops, q, cache, kv_of_head, 1.0, meta, 0).shape == (0, width)
    assert ops.gated(x, packed(2 * dim, Use.GATED), None).shape == (0, dim)
    assert ops.logits(x, packed(32, Use.HEAD)).shape == (0, 32)
    assert torch.equal(both, before)
