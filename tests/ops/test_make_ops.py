"""Which implementation serves, and what start-up says of it."""

from __future__ import annotations

import pytest
import torch

from weft.ops import Numerics, make_ops
from weft.ops.native_ops import NativeOps
from weft.ops.step_ops import StepOps
from weft.ops.torch_ops import TorchOps


def test_kernels_serve_where_they_are_built() -> None:
    ops = make_ops(Numerics(torch.bfloat16), "cpu")
    if not isinstance(ops, NativeOps):
        pytest.skip(ops.describe())
    if isinstance(ops, StepOps):
        assert ops.describe().startswith("step library (") and "weights packed" in ops.describe()
    else:
        assert ops.describe() == "native on cpu; linear in C++"


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


def test_the_check_speaks_of_the_form_in_use() -> None:
    ops = make_ops(Numerics(torch.float32), "cpu")
    report = ops.check_batch_invariance([torch.randn(64, 32), torch.randn(48, 64)])
    assert report.holds and report.checked == 2 and report.form in ops.describe()
