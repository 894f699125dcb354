"""What settings mean for numbers, where they leave it to the machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weft.launch.numbers import numerics_of
from weft.settings import EngineConfig
from weft.weights.kept import rounds_rows


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4", "gguf"])
def test_rows_are_rounded_where_asked_or_faster(
    faster: bool, dtype: str, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.launch.numbers.kernels", lambda: "avx512vnni" if faster else "amx")
    by_itself = faster and quantization in ("int8", "int4") and dtype == "bfloat16"
    for activations, rounds in {"auto": by_itself, "full": False, "int8": True}.items():
        engine = EngineConfig(dtype=dtype, quantization=quantization, activations=activations)
        assert numerics_of(engine).rounds_rows == rounds, activations


@pytest.mark.parametrize(
    ("quantization", "variant", "device", "rounds"),
    [
        ("int4", "avx2", "cpu", True),
        ("int8", "avx2", "cpu", False),
        ("int8", "avx512vnni", "cpu", True),
        ("int8", "avx512bf16", "cpu", True),
        ("int4", "amx", "cpu", False),
        ("int4", None, "cpu", False),
        ("int4", "avx2", "cuda", False),
    ],
)
def test_which_kernels_round_rows_by_themselves(
    quantization: str, variant: str | None, device: str, rounds: bool
) -> None:
    engine = EngineConfig(dtype="bfloat16", quantization=quantization, device=device)
    assert rounds_rows(engine, variant) == rounds
    assert rounds_rows(replace(engine, activations="int8"), variant)
    assert not rounds_rows(replace(engine, activations="full"), variant)
