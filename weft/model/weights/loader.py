"""load_params: one rank's parameters, read slice by slice from a checkpoint; Shards says which slices."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.base.machine.memory_trim import give_back
from weft.base.weight_formats import FORMATS
from weft.compute.native.step_library import open_library
from weft.compute.ops.weights import FileBlocks, Weight, plain
from weft.model.checkpoint.checkpoint import Checkpoint
from weft.model.checkpoint.formats import LOADABLE
from weft.model.checkpoint.tensors import TensorInfo, raise_all
from weft.model.layers import Prepare
from weft.model.weights.check import check_checkpoint
from weft.model.weights.filling import Filling
from weft.model.weights.preparing import Preparing
from weft.model.weights.reader import ReadError, SliceReader
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.spec import ParamSpec

EMBEDDING = "embedding.weight"


@dataclass(frozen=True, slots=True)
class LoadedParams:
    """params: target -> tensor; a tied lm_head.weight is a view of embedding.weight's memory where Shards says so.

    bytes_read: tensor bytes copied from the files, in their formats, widened to block edges. unused: tensors of the
    files that carry nothing the model needs.
    """

    params: dict[str, Weight]
    bytes_read: int
    unused: tuple[str, ...]


def load_params(
    checkpoint: Checkpoint,
    specs: Sequence[ParamSpec],
    shards: Shards,
    rank: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    check_finite: bool = True,
    prepare: Prepare | None = None,
) -> LoadedParams:
    """The slices of `specs` that `rank` holds, as `dtype` on `device`, each through `prepare` once it is whole.

    CheckpointError lists every problem: what `check_checkpoint` finds (nothing is read then), and what reading finds:
    files cut short, and, unless check_finite is False, NaN, infinity, or values beyond the range of `dtype`.
    """
    unused = check_checkpoint(checkpoint, specs)
    own = [spec for spec in shards.specs_of(rank) if not shards.is_view(spec)]
    shapes = shards.target_shapes(rank)
    kept = _kept_blocks(checkpoint, own, shards, rank, prepare) if prepare else {}
    filling = Filling(own, shards, rank, shapes, dtype, device, kept)
    peaks = _peaks(own, shards, rank, shapes, prepare) if prepare else {}
    params: dict[str, Weight] = {}
    waiting: dict[str, FileBlocks] = {}
    problems: list[str] = []
    # Scales of blocks are fp16: what is finite in fp32 is so in bf16.
    narrow = dtype if dtype == torch.bfloat16 else torch.float32
    opened = SliceReader(open_library(), narrow, checkpoint.states)
    with opened as reader, _one_thread(), Preparing(prepare, filling, params) as preparing:
        for spec in own:
            load = _Load(checkpoint.tensors[spec.name], filling.place(spec), check_finite, filling.rows_of(spec, peaks))
            problems += load.run(reader, spec.dim, shards.interval(spec, rank))
            whole = filling.finished(spec)
            if isinstance(whole, FileBlocks) and spec.target == EMBEDDING:
                waiting[spec.target] = whole
            elif whole is not None and not problems:
                preparing.give(spec.target, whole, peaks.pop(spec.target, None))
            del whole  # what is large would stand beside the next
    raise_all(f"{checkpoint.path} (rank {rank})", problems)
    give_back()  # what targets in the making left
    for spec in specs:
        if shards.is_view(spec) and prepare and EMBEDDING in waiting:
            params[EMBEDDING] = params[spec.target] = prepare.blocks(spec.target, waiting.pop(EMBEDDING))
        elif shards.is_view(spec):
            _tie(spec, own, shards, rank, params, prepare)
    return LoadedParams(params, reader.bytes_read, unused)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread inside each operation. Pieces are small: several threads would wait for each other longer than they
    decode, many times longer where ranks that load side by side share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _kept_blocks(
    checkpoint: Checkpoint, specs: Sequence[ParamSpec], shards: Shards, rank: int, prepare: Prepare
) -> dict[str, str]:
    """Format of the targets whose blocks are handed over as they are: those with one format that is taken, cut between
    blocks. An embedding is, where all of it is the head too."""
    formats: dict[str, set[str]] = defaultdict(set)
    for spec in specs:
        name = checkpoint.tensors[spec.name].dtype
        formats[spec.target].add(name if _between_blocks(spec, shards.interval(spec, rank), name) else "")
    kept = {target: found.pop() for target, found in formats.items() if len(found) == 1}
    head = next((spec for spec in shards.specs if shards.is_view(spec)), None)
    as_head = {EMBEDDING: head.target} if head and shards.layout.embedding.tp == shards.layout.lm_head.tp else {}
    return {target: name for target, name in kept.items() if prepare.takes_blocks(as_head.get(target, target), name)}


def _between_blocks(spec: ParamSpec, interval: tuple[int, int] | None, name: str) -> bool:
    if spec.dim != 1 or interval is None:
        return True
    return LOADABLE[name].widen(*interval) == interval


def _peaks(
    specs: Sequence[ParamSpec], shards: Shards, rank: int, shapes: Mapping[str, tuple[int, ...]], prepare: Prepare
) -> dict[str, Tensor]:
    """Buffers for the largest magnitude of each whole row, for targets quantized by rows but split along them."""
    cut = {spec.target for spec in specs if spec.dim == 1 and 0 < shards.local_shape(spec, rank)[1] < spec.shape[1]}
    return {target: torch.zeros(shapes[target][0]) for target in cut if prepare.needs_peaks(target)}


def _tie(
    spec: ParamSpec,
    own: Sequence[ParamSpec],
    shards: Shards,
    rank: int,
    params: dict[str, Weight],
    prepare: Prepare | None,
) -> None:
    """Gives `spec` its rows of the embedding. Where they are all of it, both are one prepared matrix."""
    owner = next(other for other in own if other.name == spec.name)
    whole = (0, spec.shape[0])
    first, last = shards.interval(owner, rank) or whole
    lo, hi = shards.interval(spec, rank) or whole
    embedding = plain(params[owner.target])
    view = embedding[lo - first : hi - first]
    params[spec.target] = prepare(spec.target, view) if prepare else view
    if (lo, hi) == (first, last):
        params[owner.target] = params[spec.target]


@dataclass(slots=True)
class _Load:
    """Fills `place` with a slice of a tensor, and counts what is not finite in it. `peaks` [rows]: filled with the
    largest magnitude of each whole row, which is read for it."""

    info: TensorInfo
    place: Tensor
    check_finite: bool
    peaks: Tensor | None = None
    nan: int = 0
    infinite: int = 0
    overflown: int = 0

    def run(self, reader: SliceReader, dim: int | None, interval: tuple[int, int] | None) -> list[str]:
        """Reads the slice; returns the problems found."""
        if self.place.dtype == torch.uint8:
            return self._run_blocks(reader, dim, interval)
        columns = None if self.peaks is None else interval
        try:
            for row, values in reader.pieces(self.info, dim, interval if columns is None else None):
                values = values if columns is None else self._part(row, values, *columns)
                converted = self.place[row : row + len(values)].copy_(values)
                if self.check_finite and not _surely_finite(converted):
                    self._count(values, converted)
        except ReadError as error:
            return [str(error)]
        return self._problems()

    def _part(self, row: int, whole: Tensor, lo: int, hi: int) -> Tensor:
        """Columns [lo, hi) of whole rows from `row` on, whose peaks, of numbers as they are kept, are noted."""
        assert self.peaks is not None
        torch.amax(whole.to(self.place.dtype).abs().float(), 1, out=self.peaks[row : row + len(whole)])
        return whole[:, lo:hi]

    def _run_blocks(self, reader: SliceReader, dim: int | None, interval: tuple[int, int] | None) -> list[str]:
        """The same for blocks as they are: only their scales and offsets may not be finite."""
        sizes = FORMATS[self.info.dtype]
        try:
            for row, raw in reader.pieces(self.info, dim, interval, decoded=False):
                if self.check_finite:
                    blocks = raw.reshape(-1, sizes.nbytes)[:, : sizes.scale_bytes]
                    halves = blocks.contiguous().view(torch.float16)
                    self.nan += int(halves.isnan().sum())
                    self.infinite += int(halves.isinf().sum())
                self.place[row : row + len(raw)].copy_(raw)
        except ReadError as error:
            return [str(error)]
        return self._problems()

    def _count(self, values: Tensor, converted: Tensor) -> None:
        nan, infinite = int(values.isnan().sum()), int(values.isinf().sum())
        self.nan += nan
        self.infinite += infinite
        self.overflown += int((~converted.isfinite()).sum()) - nan - infinite

    def _problems(self) -> list[str]:
        where, limits = f"{self.info.file}: {self.info.source}", self.place.dtype
        found = (
            (self.nan, "NaN"),
            (self.infinite, "infinite"),
            (self.overflown, f"beyond the range of {str(limits).removeprefix('torch.')}"),
        )
        return [f"{where}: wanted finite values, got {count} {what}" for count, what in found if count]


def _surely_finite(values: Tensor) -> bool:
    """Whether a sum over all values is finite: one pass over them, while counting takes several. False may be a sum
    that overflowed, which bf16, as wide as fp32, does no sooner; it is summed as it is, unwidened."""
    narrow = values.dtype not in (torch.float64, torch.bfloat16)
    return math.isfinite(values.sum(dtype=torch.float32 if narrow else None).item())
