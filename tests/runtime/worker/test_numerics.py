"""What settings mean for numbers, where they leave it to the machine."""

from __future__ import annotations

import pytest

from weft.base.settings import EngineConfig
from weft.model.weights.storage import uses_int8_activations
from weft.runtime.worker.numerics import numerics_of


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4", "gguf"])
def test_rows_are_rounded_where_asked_or_faster(
    faster: bool, dtype: str, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.runtime.worker.numerics.kernels", lambda: "avx512vnni" if faster else "amx")
    by_itself = faster and quantization in ("int8", "int4") and dtype == "bfloat16"
    for activations, rounds in {"auto": by_itself, "full": False, "int8": True}.items():
        engine = EngineConfig(dtype=dtype, quantization=quantization, activations=activations)
        assert numerics_of(engine).int8_activations == rounds, activations


@pytest.mark.parametrize("variant", [None, "avx2"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_rows_are_not_rounded_by_themselves_without_kernels_or_on_a_device(variant: str | None, device: str) -> None:
    engine = EngineConfig(dtype="bfloat16", quantization="int4", device=device)
    assert uses_int8_activations(engine, variant) == (variant == "avx2" and device == "cpu")
