"""What every quantization format must satisfy, those of weft and those of tests."""

from __future__ import annotations

from functools import partial

import gguf
import numpy as np
import torch
from torch import Tensor

from tests.support.checkpoints import random_blocks
from weft.base.weight_formats import FORMATS, LOSSLESS, Chosen
from weft.compute.ops import Numerics, make_ops
from weft.compute.ops.native.packed import PackedWeight
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.compute.ops.weights import FileBlocks, Use, Weight, plain
from weft.compute.quant.base import PackedParts, QuantFormat
from weft.compute.quant.registry import format_of
from weft.parallel.arch.quantization import WeightStorage

ROWS, DEPTH = 64, 512
CPU = torch.device("cpu")


def check_format(name: str) -> None:
    """`name`: of a row of `FORMATS`."""
    weight = torch.randn(ROWS, DEPTH, generator=torch.Generator().manual_seed(len(name))).bfloat16()
    found, parts = format_of(name), packed(name, weight)
    assert found.name == name
    _close(name, weight, found.unpack(parts, DEPTH))
    _sizes(name, parts)
    _parts_of_rows(name, weight)
    _linear(name, parts)


def packed(name: str, weight: Tensor, peaks: Tensor | None = None) -> PackedParts:
    """By the format, or by the gguf package where it is only read from files."""
    if FORMATS[name].chosen is not Chosen.FILE:
        return format_of(name).pack(weight, peaks)
    return PackedParts.of_blocks(torch.from_numpy(file_rows(name, weight)))


def file_rows(name: str, weight: Tensor) -> np.ndarray:
    """uint8 [rows, bytes]; of formats that the gguf package cannot write, random blocks."""
    try:
        return np.array(gguf.quants.quantize(weight.float().numpy(), gguf.GGMLQuantizationType[name]))
    except NotImplementedError:
        return random_blocks(name, ROWS, DEPTH, np.random.default_rng(0))


def _close(name: str, weight: Tensor, values: Tensor) -> None:
    """Within a step of the widest range that may share a scale; blocks of files are read as the gguf package does."""
    assert values.dtype == torch.float32 and values.shape == weight.shape
    if FORMATS[name].chosen is Chosen.FILE:
        read = gguf.quants.dequantize(file_rows(name, weight), gguf.GGMLQuantizationType[name])
        assert torch.equal(values, torch.from_numpy(read).bfloat16().float())
    elif FORMATS[name].chosen is Chosen.LOSSLESS:
        assert torch.equal(values, weight.float())
    else:
        step = 2 * weight.float().abs().max() / (2 ** FORMATS[name].bits - 2)
        assert (values - weight.float()).abs().max() <= step


def _sizes(name: str, parts: PackedParts) -> None:
    """The row of sizes equals the bytes of the parts, and explain's those of the row."""
    wanted = FORMATS[name].matrix_bytes(ROWS, DEPTH)
    assert name == LOSSLESS or parts.nbytes == wanted  # whose 12 bits only the kernels have
    if FORMATS[name].chosen is Chosen.OPTION:
        storage = WeightStorage(name)
    elif FORMATS[name].chosen is Chosen.FILE and FORMATS[name].kept:
        storage = WeightStorage("gguf", {"weight": name})
    else:
        return
    assert storage.matrix_bytes("weight", (ROWS, DEPTH), lm_head=False, between_blocks=True) == wanted


def _parts_of_rows(name: str, weight: Tensor) -> None:
    """A rank's columns, cut between blocks, stand for what they do in the whole row."""
    if FORMATS[name].chosen is Chosen.FILE:
        return
    peaks = weight.float().abs().amax(1) if format_of(name).needs_peaks else None
    whole = format_of(name).fake_quantize(weight)
    for lo, hi in ((0, DEPTH // 2), (DEPTH // 2, DEPTH)):
        assert torch.equal(format_of(name).unpack(packed(name, weight[:, lo:hi], peaks), hi - lo), whole[:, lo:hi])


def _linear(name: str, parts: PackedParts) -> None:
    """The operation that a layer calls gives x @ numbers.T, in torch and on the kernels, where it has any."""
    found, row = format_of(name), FORMATS[name]
    numbers = found.unpack(parts, DEPTH)
    x = torch.randn(5, DEPTH, generator=torch.Generator().manual_seed(1)).bfloat16()
    wanted = x.double() @ numbers.double().T
    quantization = {Chosen.OPTION: name, Chosen.FILE: "gguf", Chosen.LOSSLESS: "none"}[row.chosen]
    numerics = Numerics(torch.bfloat16, quantization=quantization, compress_weights=name == LOSSLESS)
    check = partial(torch.testing.assert_close, rtol=2**-7, atol=2**-7 * float(wanted.abs().max()))
    if row.chosen is Chosen.OPTION:
        twin, seen = TorchOps(numerics, CPU), numbers.bfloat16()
        assert torch.equal(plain(twin.prepare(_weight(name), Use.LINEAR)), seen)
        check(twin.linear(x, seen, None).double(), wanted)
    fast = make_ops(numerics, CPU)
    if row.kept and isinstance(fast, StepOps):
        made = _prepared(fast, name, parts)
        check(fast.linear(x, made, None).double(), wanted)
        _native(found, made, numbers)


def _weight(name: str) -> Tensor:
    return torch.randn(ROWS, DEPTH, generator=torch.Generator().manual_seed(len(name))).bfloat16()


def _prepared(ops: StepOps, name: str, parts: PackedParts) -> Weight:
    if FORMATS[name].chosen is not Chosen.FILE:
        return ops.prepare(_weight(name), Use.LINEAR)
    assert ops.takes_blocks(name, Use.LINEAR)
    return ops.prepare_blocks(FileBlocks(parts.data, name, DEPTH), Use.LINEAR)


def _native(found: QuantFormat, made: Weight, numbers: Tensor) -> None:
    """The kernels have the twin's numbers, and the bytes of the row of sizes."""
    if found.native is None:
        assert isinstance(made, Tensor)
        return
    assert isinstance(made, PackedWeight) and made.kind == found.native.kind
    assert torch.equal(made.rows(0, ROWS), numbers)
    held = made.data.nbytes + made.scale.nbytes + made.offset.nbytes
    spare = 0 if found.native.fixed_size else 64 * 4  # of any matrix, for numbers that do not fit their group
    assert held == FORMATS[found.name].matrix_bytes(ROWS, DEPTH) + spare
