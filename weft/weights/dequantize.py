"""Decodes the quantized blocks of a checkpoint's formats: in C++ where there is a library, else in torch, its twin.

Bit for bit what the `gguf` package's `dequantize` gives.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from weft.checkpoint.formats import LOADABLE
from weft.ops.packed import DTYPES

PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def decode(
    raw: Tensor, name: str, columns: int, library: ctypes.CDLL | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Elements of `raw`: uint8 [rows, bytes of a row] in format `name` -> [rows, columns], in the format's own dtype
    where it is plain, where it is quantized in `dtype`, fp32 or bf16, to which fp32 is rounded. A plain result shares
    memory with `raw`. `library`: the step library, which decodes blocks; None: torch does."""
    if name in PLAIN:
        return raw.view(PLAIN[name])
    blocks = raw.view(-1, LOADABLE[name].nbytes)
    if library is None:
        return DECODERS[name](blocks).view(raw.shape[0], columns).to(dtype)
    out = torch.empty(raw.shape[0], columns, dtype=dtype)
    if not library.weft_decode_blocks(name.encode(), blocks.data_ptr(), len(blocks), DTYPES[dtype], out.data_ptr()):
        raise KeyError(name, dtype)
    return out


def _half(blocks: Tensor, at: int) -> Tensor:
    """The fp16 number at byte `at` of every block, as fp32 [blocks, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor, group: int) -> Tensor:
    """Low, then high nibbles of each run of `group` bytes: uint8 [blocks, bytes] -> fp32 [blocks, 2 * bytes]."""
    packed = packed.reshape(packed.shape[0], -1, group)
    found = torch.empty((packed.shape[0], packed.shape[1], 2, group))
    found[:, :, 0] = packed & 15
    found[:, :, 1] = packed >> 4
    return found.view(packed.shape[0], -1)


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).float().mul_(_half(blocks, 0))


def _q4_0(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 2:], 16).sub_(8).mul_(_half(blocks, 0))


def _q4_1(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 4:], 16).mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q4_k(blocks: Tensor) -> Tensor:
    """256 elements in 8 groups of 32, each with a 6-bit scale and a 6-bit minimum packed in 12 bytes."""
    packed = blocks[:, 4:16].reshape(-1, 3, 4)
    low, mins, high = packed.unbind(1)
    scale = torch.cat((low & 63, (high & 15) | ((low >> 2) & 48)), 1).float() * _half(blocks, 0)
    floor = torch.cat((mins & 63, (high >> 4) | ((mins >> 2) & 48)), 1).float() * _half(blocks, 2)
    values = _nibbles(blocks[:, 16:], 32).view(-1, 8, 32)
    return values.mul_(scale.unsqueeze(2)).sub_(floor.unsqueeze(2))


def _q6_k(blocks: Tensor) -> Tensor:
    """256 elements in 16 groups of 16, each with an int8 scale; low 4 bits, then high 2 bits of all elements."""
    low = blocks[:, :128].reshape(-1, 2, 64)
    high = blocks[:, 128:192].reshape(-1, 2, 32)
    values = torch.empty((blocks.shape[0], 2, 4, 32))
    for quarter in range(4):
        nibble = low[:, :, 32 * (quarter % 2) : 32 * (quarter % 2) + 32]
        nibble = nibble & 15 if quarter < 2 else nibble >> 4
        values[:, :, quarter] = nibble | ((high >> 2 * quarter & 3) << 4)
    scale = blocks[:, 192:208].view(torch.int8).float() * _half(blocks, 208)
    return values.view(-1, 16, 16).sub_(32).mul_(scale.unsqueeze(2))


DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}
