"""Weights packed for the step library: packing, unpacking. Their memory is `weft/ops/native/arena.py`'s.

Knows no module and no layout. How elements lie is told in `weft/native/kernels/quant/weight.h`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weft.native.records import Dtype, OperandRecord, WeightKind, WeightRecord
from weft.native.step_library import Pool
from weft.ops.code_numbers import CodeNumbers
from weft.ops.native.arena import Arena, Given, Memory
from weft.ops.native.pages import OWN_PAGES, Pages
from weft.ops.weights import Packed, Weight, plain

DTYPES = {torch.float32: Dtype.F32, torch.bfloat16: Dtype.BF16, torch.float64: Dtype.F64}
"""Dtypes of tensors that kernels read."""
KINDS = {torch.float32: WeightKind.F32, torch.bfloat16: WeightKind.BF16, torch.float64: WeightKind.F64}
"""The kind that keeps a dtype's numbers."""
CODED = (WeightKind.INT8, WeightKind.INT4, WeightKind.INT8G)
"""Kinds that keep codes."""
INT4_CODES = torch.arange(0.0, 16.0)
"""What the codes 0 to 15 of a 4-bit weight stand for, before its scale and offset."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of 32 of a GGUF file that are taken as they are: `format` numbers them as `pack_int.h` does."""

    format: int
    kind: WeightKind
    nbytes: int
    """Of a block."""
    codes: Tensor | None = None
    has_offset: bool = False


BLOCKS = {
    "Q8_0": Blocks(16, WeightKind.INT8G, 34),
    "Q4_0": Blocks(17, WeightKind.INT4, 18, INT4_CODES - 8),
    "Q4_1": Blocks(18, WeightKind.INT4, 20, INT4_CODES, has_offset=True),
}
BLOCK = 32


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
    short_numbers: bool
    """Scales and offsets of groups share words of 16 bits, in `scale`."""
    numbers: Tensor
    """What codes stand for beside every scale, which weights share; see `CodeNumbers`."""
    packing: Packing
    record: WeightRecord = field(init=False)

    def __post_init__(self) -> None:
        parts = (part.data_ptr() or None for part in (self.data, self.scale, self.offset, self.table))
        rounds = self.packing.rounds_rows and self.kind in CODED
        numbers = self.numbers.data_ptr() or None
        record = WeightRecord(self.kind, *self.shape, self.interleaved, *parts, rounds, self.short_numbers, numbers)
        object.__setattr__(self, "record", self.packing.pages.record(record))

    @property
    def nbytes(self) -> int:
        """Of what is its own: `numbers` belong to the packing."""
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


class Packing:
    """The step library's packing, on the threads of `pool`. `rounds_rows`: rows are rounded to 8 bits before they are
    multiplied with weights in codes."""

    def __init__(self, pool: Pool, rounds_rows: bool = False, pages: Pages = OWN_PAGES) -> None:
        self.pool, self._library, self.rounds_rows = pool, pool.lib, rounds_rows
        self.pages = pages
        self._code_numbers = CodeNumbers(pool.lib, self.pages)

    @property
    def suits_bf12(self) -> bool:
        """Whether few rows gain and many lose little with BF12 in this variant."""
        return bool(self._library.weft_suits_bf12())

    def sizes(self, kind: WeightKind, shape: tuple[int, int], interleaved: bool) -> tuple[int, int, int]:
        """Bytes of data, of scales, and of offsets where these are kept by themselves."""
        found = (ctypes.c_int64 * 3)()
        self._library.weft_packed_sizes(kind, *shape, interleaved, found)
        return found[0], found[1], found[2]

    def pack(
        self,
        weight: Tensor,
        kind: WeightKind | None = None,
        *,
        interleaved: bool = False,
        arena: Memory | None = None,
        peaks: Tensor | None = None,
    ) -> PackedWeight:
        """`weight` [out, in] in fp32, bf16 or fp64 as `kind` (None: the one that keeps its numbers). Codes are rounded
        as `weft.ops.quantized` tells, with `peaks` [out]. BF16 instead of BF12 where exponents lie too far apart for
        it."""
        if weight.dtype not in DTYPES:
            raise TypeError(f"cannot pack {weight.dtype}; legal: {', '.join(map(str, DTYPES))}")
        weight = weight if weight.stride(1) == 1 else weight.contiguous()
        columns, depth = weight.shape
        chosen = KINDS[weight.dtype] if kind is None else kind
        if chosen == WeightKind.BF12:
            return self._pack_bf12(weight, interleaved, arena if isinstance(arena, Arena) else Arena())
        made = self._allocate((columns, depth), chosen, interleaved, weight.dtype, arena or Arena())
        self._fill(made, weight, DTYPES[weight.dtype], weight.stride(0) * weight.element_size(), peaks)
        return made

    def _pack_bf12(self, weight: Tensor, interleaved: bool, arena: Arena) -> PackedWeight:
        shape, stride = (weight.shape[0], weight.shape[1]), weight.stride(0) * weight.element_size()
        with arena.attempt() as unused:
            made = self._allocate(shape, WeightKind.BF12, interleaved, weight.dtype, arena)
            if not self._fill(made, weight, DTYPES[weight.dtype], stride):
                unused += [made.data, made.scale, made.offset]
        return self.pack(weight, WeightKind.BF16, interleaved=interleaved, arena=arena) if unused else made

    def pack_blocks(
        self, raw: Tensor, name: str, depth: int, *, interleaved: bool = False, arena: Arena | None = None
    ) -> PackedWeight:
        """Rows of GGUF blocks, uint8 [out, bytes of a row] in format `name` of `BLOCKS`, as they are."""
        blocks = BLOCKS[name]
        if raw.dtype != torch.uint8 or raw.shape[1] != -(-depth // BLOCK) * blocks.nbytes:
            raise ValueError(f"{name} rows of {depth} take {-(-depth // BLOCK) * blocks.nbytes} bytes, not {raw.shape}")
        raw = raw if raw.stride(1) == 1 else raw.contiguous()
        shape = (raw.shape[0], depth)
        made = self._allocate(shape, blocks.kind, interleaved, torch.bfloat16, arena or Arena(), blocks)
        self._fill(made, raw, blocks.format, raw.stride(0))
        return made

    def pack_slots(
        self,
        weight: Tensor,
        slots: int,
        kind: WeightKind | None = None,
        *,
        interleaved: bool = False,
        peaks: Tensor | None = None,
    ) -> PackedSlots:
        """`weight` [slots * out, in], slot by slot, with `peaks` [slots * out]. Not as BF12: slots may move between
        ranks, which must keep them alike whatever their numbers."""
        if kind == WeightKind.BF12:
            raise ValueError("slots are not kept in 12 bits a number")
        columns, depth = weight.shape[0] // slots, weight.shape[1]
        chosen = KINDS[weight.dtype] if kind is None else kind
        data, scale, _ = self.sizes(chosen, (columns, depth), interleaved)
        parts = tuple(self.pages.take(slots * size).view(slots, size) for size in (data, scale) if size)
        peaks_of = [None] * slots if peaks is None else peaks.view(slots, columns)
        made = [
            self.pack(part, chosen, interleaved=interleaved, arena=Given([held[slot] for held in parts]), peaks=most)
            for slot, (part, most) in enumerate(zip(weight.view(slots, columns, depth), peaks_of, strict=True))
        ]
        return PackedSlots((weight.shape[0], depth), tuple(made), parts)

    def _allocate(
        self,
        shape: tuple[int, int],
        kind: WeightKind,
        interleaved: bool,
        dtype: torch.dtype,
        arena: Memory,
        blocks: Blocks | None = None,
    ) -> PackedWeight:
        """`blocks`: what will be taken as it is; None: numbers will be rounded."""
        if interleaved and shape[0] % 2:
            raise ValueError(f"{shape[0]} rows are not as many gate as up rows")
        data, scale, offset = self.sizes(kind, shape, interleaved)
        short = kind == WeightKind.INT4 and blocks is None
        has_offset = kind == WeightKind.BF12 or (blocks is not None and blocks.has_offset)
        codes = INT4_CODES if blocks is None or blocks.codes is None else blocks.codes
        table = self.pages.vector(codes.bfloat16()) if kind == WeightKind.INT4 else torch.empty(0, dtype=torch.bfloat16)
        looks_up = kind == WeightKind.INT4 and not has_offset and not self.rounds_rows
        return PackedWeight(
            shape=shape,
            kind=kind,
            interleaved=interleaved,
            dtype=dtype,
            data=arena.take(data),
            scale=arena.take(scale),
            offset=arena.take(offset if has_offset else 0),
            table=table,
            short_numbers=short,
            numbers=self._code_numbers.of(table, short) if looks_up else torch.empty(0, dtype=torch.uint8),
            packing=self,
        )

    def _fill(
        self, to: PackedWeight, source: Tensor, source_format: int, stride: int, peaks: Tensor | None = None
    ) -> bool:
        """Whether the kind suits the numbers."""
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
