"""Weights packed for the step library: packing, unpacking. Their memory comes from `weft/compute/ops/native/arena.py`.

`weft/compute/native/kernels/quant/weight.h` says in which order the elements are stored.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weft.base.weight_formats import FORMATS
from weft.compute.native.records import Dtype, OperandRecord, WeightKind, WeightRecord
from weft.compute.native.step_library import Pool
from weft.compute.ops.native.arena import Arena, Given, Memory
from weft.compute.ops.native.large_pages import large_pages
from weft.compute.ops.native.lut import LookupTables
from weft.compute.ops.operations.declare import NoCallError
from weft.compute.ops.weights import FileBlocks, Packed, Weight, plain
from weft.compute.quant.base import NativeForm
from weft.compute.quant.registry import format_of

DTYPES = {torch.float32: Dtype.F32, torch.bfloat16: Dtype.BF16, torch.float64: Dtype.F64}
"""Dtypes of tensors that kernels read."""
PLAIN = {
    torch.float32: NativeForm(WeightKind.F32),
    torch.bfloat16: NativeForm(WeightKind.BF16),
    torch.float64: NativeForm(WeightKind.F64),
}
"""The form that keeps a dtype's numbers."""
QUANTIZED = (WeightKind.INT8, WeightKind.INT4, WeightKind.INT8G)
"""Kinds of quantized values, which may be multiplied with int8 activations."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight(Packed):
    """A matrix [out, in] in pairs of 16-column panels; `interleaved`: gate rows over up rows, for `SILU_MUL_OF`."""

    shape: tuple[int, int]
    kind: WeightKind
    interleaved: bool
    dtype: torch.dtype
    """Of what was packed."""
    data: Tensor
    scale: Tensor
    offset: Tensor
    table: Tensor
    scale16: bool
    """Scales and offsets of groups share words of 16 bits, in `scale`."""
    lut: Tensor
    """What values stand for with every scale, which weights share; see `LookupTables`."""
    packing: Packing
    record: WeightRecord = field(init=False)

    def __post_init__(self) -> None:
        parts = (part.data_ptr() or None for part in (self.data, self.scale, self.offset, self.table))
        int8 = self.packing.int8_activations and self.kind in QUANTIZED
        lut = self.lut.data_ptr() or None
        record = WeightRecord(self.kind, *self.shape, self.interleaved, *parts, int8, self.scale16, lut)
        object.__setattr__(self, "record", record)

    @property
    def nbytes(self) -> int:
        """Of its own memory: `lut` belongs to the packing."""
        return sum(part.nbytes for part in (self.data, self.scale, self.offset, self.table))

    @property
    def address(self) -> int:
        """Of the record that instructions point to; valid while this object lives."""
        return ctypes.addressof(self.record)

    def rows(self, lo: int, hi: int) -> Tensor:
        """Rows [lo, hi) of the matrix: fp32 (fp64 of a fp64 weight) [hi - lo, in]."""
        if not 0 <= lo <= hi <= self.shape[0]:
            raise IndexError(f"rows {lo} to {hi} of {self.shape[0]}")
        return self.packing.unpack(self, lo, hi)

    def unpacked(self) -> Tensor:
        return self.rows(0, self.shape[0]).to(self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class PackedSlots(Packed):
    """Matrices of one shape, one for each expert slot. `held`: their bytes, uint8 [slots, ...] each: data and, where
    there are any, scales. What is written there is what products read from then on."""

    shape: tuple[int, int]
    """(slots * out, in)."""
    slots: tuple[PackedWeight, ...]
    held: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.held)

    def unpacked(self) -> Tensor:
        return torch.cat([slot.unpacked() for slot in self.slots])

    def addresses(self) -> ctypes.Array[ctypes.c_void_p]:
        """Of the slots' records, as a grouped product reads them; valid while both objects live."""
        return (ctypes.c_void_p * len(self.slots))(*(slot.address for slot in self.slots))


def packed(weight: Weight) -> PackedWeight:
    """The weight. NoCallError where it is not packed."""
    if not isinstance(weight, PackedWeight):
        raise NoCallError("a matrix that is not packed")
    return weight


def packed_slots(weight: Weight) -> PackedSlots:
    """The same of one with slots."""
    if not isinstance(weight, PackedSlots):
        raise NoCallError("a matrix that is not packed")
    return weight


class Packing:
    """The step library's packing, on the threads of `pool`. `int8_activations`: rows are quantized to int8 before they
    are multiplied with quantized weights."""

    def __init__(self, pool: Pool, int8_activations: bool = False) -> None:
        self.pool, self._library, self.int8_activations = pool, pool.lib, int8_activations
        self._tables = LookupTables(pool.lib)

    @property
    def suits_lossless_bf16(self) -> bool:
        """Whether this variant is faster for few rows with 12 bits a number, and little slower for many."""
        return bool(self._library.weft_suits_bf16_12bit())

    def sizes(self, kind: WeightKind, shape: tuple[int, int], interleaved: bool) -> tuple[int, int, int]:
        """Bytes of data, of scales, and of offsets where they are not stored with the scales."""
        found = (ctypes.c_int64 * 3)()
        self._library.weft_packed_sizes(kind, *shape, interleaved, found)
        return found[0], found[1], found[2]

    def pack(
        self,
        weight: Tensor,
        form: NativeForm | None = None,
        *,
        interleaved: bool = False,
        arena: Memory | None = None,
        peaks: Tensor | None = None,
    ) -> PackedWeight:
        """`weight` [out, in] in fp32, bf16 or fp64 as `form` (None: the one that keeps its numbers), rounded as the
        format in `weft.compute.quant` says, with `peaks` [out]. BF16 where `form` has no fixed size and the numbers do
        not fit it."""
        if weight.dtype not in DTYPES:
            raise TypeError(f"cannot pack {weight.dtype}; legal: {', '.join(map(str, DTYPES))}")
        weight = weight if weight.stride(1) == 1 else weight.contiguous()
        form = PLAIN[weight.dtype] if form is None else form
        if not form.fixed_size:
            return self._pack_if_it_fits(weight, form, interleaved, arena if isinstance(arena, Arena) else Arena())
        made = self._allocate((weight.shape[0], weight.shape[1]), form, interleaved, weight.dtype, arena or Arena())
        self._fill(made, weight, DTYPES[weight.dtype], weight.stride(0) * weight.element_size(), peaks)
        return made

    def _pack_if_it_fits(self, weight: Tensor, form: NativeForm, interleaved: bool, arena: Arena) -> PackedWeight:
        shape, stride = (weight.shape[0], weight.shape[1]), weight.stride(0) * weight.element_size()
        with arena.attempt() as unused:
            made = self._allocate(shape, form, interleaved, weight.dtype, arena)
            if not self._fill(made, weight, DTYPES[weight.dtype], stride):
                unused += [made.data, made.scale, made.offset]
        return self.pack(weight, PLAIN[torch.bfloat16], interleaved=interleaved, arena=arena) if unused else made

    def pack_blocks(self, blocks: FileBlocks, *, interleaved: bool = False, arena: Arena | None = None) -> PackedWeight:
        """Rows of a file's blocks as they are, in a format that `weft.base.weight_formats.kept_blocks` lists."""
        form, raw, depth = format_of(blocks.format).native, blocks.raw, blocks.depth
        assert form is not None and form.source, f"no kernel takes {blocks.format}"
        wanted = FORMATS[blocks.format].matrix_bytes(1, depth)
        if raw.dtype != torch.uint8 or raw.shape[1] != wanted:
            raise ValueError(f"{blocks.format} rows of {depth} take {wanted} bytes, not {raw.shape}")
        raw = raw if raw.stride(1) == 1 else raw.contiguous()
        made = self._allocate((raw.shape[0], depth), form, interleaved, torch.bfloat16, arena or Arena())
        self._fill(made, raw, form.source, raw.stride(0))
        return made

    def pack_slots(
        self,
        weight: Tensor,
        slots: int,
        form: NativeForm | None = None,
        *,
        interleaved: bool = False,
        peaks: Tensor | None = None,
    ) -> PackedSlots:
        """`weight` [slots * out, in], slot by slot, with `peaks` [slots * out]. ValueError for a form
        of no fixed size: slots move between ranks, so all must have as many bytes."""
        form = PLAIN[weight.dtype] if form is None else form
        if not form.fixed_size:
            raise ValueError("the memory of an expert slot has one size, whatever its numbers")
        columns, depth = weight.shape[0] // slots, weight.shape[1]
        data, scale, _ = self.sizes(form.kind, (columns, depth), interleaved)
        parts = tuple(large_pages(slots * size).view(slots, size) for size in (data, scale) if size)
        peaks_of = [None] * slots if peaks is None else peaks.view(slots, columns)
        made = [
            self.pack(part, form, interleaved=interleaved, arena=Given([held[slot] for held in parts]), peaks=most)
            for slot, (part, most) in enumerate(zip(weight.view(slots, columns, depth), peaks_of, strict=True))
        ]
        return PackedSlots((weight.shape[0], depth), tuple(made), parts)

    def _allocate(
        self, shape: tuple[int, int], form: NativeForm, interleaved: bool, dtype: torch.dtype, arena: Memory
    ) -> PackedWeight:
        if interleaved and shape[0] % 2:
            raise ValueError(f"{shape[0]} rows are not as many gate as up rows")
        data, scale, offset = self.sizes(form.kind, shape, interleaved)
        table = torch.empty(0, dtype=torch.bfloat16) if form.values is None else form.values
        looks_up = form.values is not None and not form.has_offset and not self.int8_activations
        return PackedWeight(
            shape=shape,
            kind=form.kind,
            interleaved=interleaved,
            dtype=dtype,
            data=arena.take(data),
            scale=arena.take(scale),
            offset=arena.take(offset if form.has_offset else 0),
            table=table,
            scale16=form.scale16,
            lut=self._tables.of(table, form.scale16) if looks_up else torch.empty(0, dtype=torch.uint8),
            packing=self,
        )

    def _fill(
        self, to: PackedWeight, source: Tensor, source_format: int, stride: int, peaks: Tensor | None = None
    ) -> bool:
        """Whether the numbers fit the form."""
        most = None if peaks is None else peaks.float().contiguous()
        address = None if most is None else most.data_ptr()
        pack = self._library.weft_pack
        return bool(pack(self.pool.handle, to.address, source.data_ptr(), source_format, stride, address))

    def unpack(self, weight: PackedWeight, lo: int, hi: int) -> Tensor:
        """See `PackedWeight.rows`."""
        dtype = torch.float64 if weight.kind == WeightKind.F64 else torch.float32
        out = torch.empty(hi - lo, weight.shape[1], dtype=dtype)
        self._library.weft_unpack(self.pool.handle, weight.address, lo, hi - lo, out.data_ptr())
        return out


def operand(x: Tensor) -> OperandRecord:
    """Where rows [N, columns] lie; columns must be neighbours."""
    dtype = Dtype.I64 if x.dtype == torch.int64 else DTYPES[x.dtype]
    return OperandRecord(x.data_ptr(), x.stride(0), dtype, x.shape[1])


def slots_held(weight: Weight) -> tuple[Tensor, ...]:
    """Tensors [slots, ...] that hold a matrix for each slot, packed or not."""
    return weight.held if isinstance(weight, PackedSlots) else (plain(weight),)
