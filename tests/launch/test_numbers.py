"""What settings mean for numbers, where they leave it to the machine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from weft.launch.numbers import numerics_of
from weft.settings import EngineConfig


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4", "gguf"])
def test_rows_are_rounded_where_asked_or_faster(
    faster: bool, dtype: str, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(weft_suits_rounded_rows=lambda kind: faster)
    monkeypatch.setattr("weft.ops.open_library", lambda: library)
    by_itself = faster and quantization in ("int8", "int4") and dtype == "bfloat16"
    for activations, rounds in {"auto": by_itself, "full": False, "int8": True}.items():
        engine = EngineConfig(dtype=dtype, quantization=quantization, activations=activations)
        assert numerics_of(engine).rounds_rows == rounds, activations
