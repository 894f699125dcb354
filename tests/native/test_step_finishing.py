"""Rows that are finished beside the next rows' products: the same bits as finished by themselves.

Twelve rows or fewer have no next rows. Depths are such that products end before, with and behind the rows beside them.
"""

from __future__ import annotations

import pytest
import step_cases
import torch
from step_cases import VARIANTS

from weft.native import build
from weft.native.records import Epilogue, WeightKind
from weft.ops.packed import Packing
from weft.ops.single import Single

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

FORMS = [
    (Epilogue.STORE, torch.bfloat16),
    (Epilogue.STORE, torch.float32),
    (Epilogue.ADD_TO, torch.float32),
    (Epilogue.SILU_MUL_OF, torch.bfloat16),
]
KINDS = [WeightKind.BF16, WeightKind.BF12, WeightKind.INT4, WeightKind.INT8]


@pytest.fixture(params=VARIANTS)
def packing(request: pytest.FixtureRequest) -> Packing:
    return step_cases.packing(str(request.param))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("epilogue", "dtype"), FORMS, ids=str)
@pytest.mark.parametrize("depth", [4, 36, 193, 1600])
def test_rows_have_the_bits_of_few(
    packing: Packing, depth: int, epilogue: Epilogue, dtype: torch.dtype, kind: WeightKind
) -> None:
    silu = epilogue == Epilogue.SILU_MUL_OF
    weight, columns = torch.randn(128, depth).bfloat16(), 64 if silu else 128
    made = packing.pack(weight, kind, interleaved=silu)
    for count in (13, 31, 150):
        x, before = torch.randn(count, depth).bfloat16(), torch.randn(count, columns).to(dtype)
        single = Single(packing.pool)
        together = single.linear(x, made, before.clone(), None, epilogue)
        few = [
            single.linear(part, made, to.clone(), None, epilogue)
            for part, to in zip(x.split(5), before.split(5), strict=True)
        ]
        assert torch.equal(together, torch.cat(few)), count
