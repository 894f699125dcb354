"""Vectorised decoding against the gguf package's, bit for bit."""

from __future__ import annotations

import ctypes
import hashlib
import json

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.weights.ggml_sums import COLUMNS, SUMS, blocks_of
from tests.support.checkpoints import SCALES, random_blocks
from tests.support.native_libraries import need
from weft.compute.native.step_library import open_library
from weft.model.checkpoint.formats import LOADABLE, QUANTIZED, TensorFormat
from weft.model.weights.dequantize import decode

NAMES = [fmt.name for fmt in QUANTIZED]


def by_package(raw: np.ndarray, name: str) -> np.ndarray:
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_what_the_package_says(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    assert gguf.GGML_QUANT_SIZES[kind] == (LOADABLE[name].block, LOADABLE[name].nbytes)


def test_every_format_that_the_package_unpacks_is_read() -> None:
    kinds = {kind.name for kind in gguf.GGMLQuantizationType}
    refused = {"Q8_1", "Q8_K", "Q1_0", "I8", "I16", "I32", "I64"}
    assert kinds - refused == LOADABLE.keys()
    for name in refused - {"Q8_1"}:
        with pytest.raises(NotImplementedError):
            gguf.quants.dequantize(np.zeros(1, np.uint8), gguf.GGMLQuantizationType[name])


@pytest.fixture(params=["torch", "library"])
def library(request: pytest.FixtureRequest) -> ctypes.CDLL | None:
    if request.param == "torch":
        return None
    need("step")
    return open_library()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_every_bit_as_the_package(name: str, rows: int, blocks: int, seed: int, library: ctypes.CDLL | None) -> None:
    columns = blocks * LOADABLE[name].block
    raw = random_blocks(name, rows, columns, np.random.default_rng(seed))
    got = decode(torch.from_numpy(raw), name, columns, library)
    assert got.dtype == torch.float32 and got.shape == (rows, columns)
    assert got.numpy().tobytes() == by_package(raw, name).tobytes()
    assert decode(torch.from_numpy(raw), name, columns, library, torch.bfloat16).equal(got.bfloat16())


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_what_ggmls_own_routines_say(name: str, library: ctypes.CDLL | None) -> None:
    numbers = decode(torch.from_numpy(blocks_of(name)), name, COLUMNS, library)
    assert hashlib.sha256(numbers.numpy().tobytes()).hexdigest() == json.loads(SUMS.read_text())[name]


@pytest.mark.parametrize("name", SCALES)
def test_scales_that_are_not_finite_stay_so(name: str, library: ctypes.CDLL | None) -> None:
    raw = random_blocks(name, 2, 256, np.random.default_rng(0))
    for at in SCALES[name]:
        raw.reshape(-1, LOADABLE[name].nbytes)[0, at : at + 2] = np.float16("inf").tobytes()[0], 0x7C
    with np.errstate(invalid="ignore"):
        wanted = by_package(raw, name)
    assert not np.isfinite(wanted).all()
    np.testing.assert_array_equal(decode(torch.from_numpy(raw), name, 256, library).numpy(), wanted)
    narrow = decode(torch.from_numpy(raw), name, 256, library, torch.bfloat16)
    np.testing.assert_array_equal(narrow.float().numpy(), torch.from_numpy(wanted).bfloat16().float().numpy())


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16"])
def test_plain_formats_are_views(name: str) -> None:
    dtype = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name]
    values = torch.randn(3, 8).to(dtype)
    raw = values.view(torch.uint8)
    got = decode(raw, name, 8)
    assert torch.equal(got, values) and got.data_ptr() == raw.data_ptr()


@given(lo=st.integers(0, 1000), length=st.integers(1, 1000), block=st.sampled_from([1, 32, 256]))
def test_widening_is_the_smallest_run_of_blocks(lo: int, length: int, block: int) -> None:
    fmt = TensorFormat("any", block, 7)
    wide = fmt.widen(lo, lo + length)
    assert wide[0] <= lo < wide[0] + block and wide[1] - block < lo + length <= wide[1]
    assert wide[0] % block == wide[1] % block == 0
