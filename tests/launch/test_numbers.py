"""What settings mean for numbers, where they leave it to the machine."""

from __future__ import annotations

import pytest

from tests.native import step_cases
from weft.launch.numbers import numerics_of
from weft.native.build import find_compiler
from weft.settings import EngineConfig

BY_THEMSELVES = ("avx512bf16", "avx512vnni")
"""Variants that multiply codes faster with rows of 8 bits, however many there are."""


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler on this machine")
@pytest.mark.parametrize("variant", step_cases.VARIANTS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4", "gguf"])
def test_rows_are_rounded_where_asked_or_faster(
    variant: str, dtype: str, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.ops.open_library", lambda: step_cases.lib(variant))
    by_itself = quantization in ("int8", "int4") and dtype == "bfloat16" and variant in BY_THEMSELVES
    for activations, rounds in {"auto": by_itself, "full": False, "int8": True}.items():
        engine = EngineConfig(dtype=dtype, quantization=quantization, activations=activations)
        assert numerics_of(engine).rounds_rows == rounds, activations


def test_rows_are_rounded_by_themselves_by_the_library_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.ops.open_library", lambda: None)
    for activations, rounds in {"auto": False, "int8": True}.items():
        engine = EngineConfig(dtype="bfloat16", quantization="int8", activations=activations)
        assert numerics_of(engine).rounds_rows == rounds
