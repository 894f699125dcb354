"""load_params: one rank's parameters, read slice by slice from a checkpoint. Asks Shards for slices; knows no group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.arch.shards import Shards
from weft.arch.spec import ParamSpec
from weft.checkpoint.checkpoint import Checkpoint
from weft.checkpoint.tensors import TensorInfo, raise_all
from weft.weights.check import check_checkpoint
from weft.weights.reader import ReadError, SliceReader


@dataclass(frozen=True, slots=True)
class LoadedParams:
    """params: target -> tensor; a tied lm_head.weight is a view of embedding.weight's memory where Shards says so.

    bytes_read: tensor bytes copied from the files, in their formats, widened to block edges. unused: tensors of the
    files that carry nothing the model needs.
    """

    params: dict[str, Tensor]
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
) -> LoadedParams:
    """The slices of `specs` that `rank` holds, as `dtype` on `device`.

    CheckpointError lists every problem: what `check_checkpoint` finds (nothing is read then), and what reading finds:
    files cut short, and, unless check_finite is False, NaN, infinity, or values beyond the range of `dtype`.
    """
    unused = check_checkpoint(checkpoint, specs)
    own = [spec for spec in shards.specs_of(rank) if not shards.is_view(spec)]
    shapes = shards.target_shapes(rank)
    params = {target: torch.empty(shape, dtype=dtype, device=device) for target, shape in shapes.items()}
    problems: list[str] = []
    with SliceReader() as reader, _one_thread():
        for spec, place in zip(own, _places(own, shards, rank, params), strict=True):
            load = _Load(checkpoint.tensors[spec.name], place, check_finite)
            problems += load.run(reader, spec.dim, shards.interval(spec, rank))
    raise_all(f"{checkpoint.path} (rank {rank})", problems)
    for spec in specs:
        if shards.is_view(spec):
            params[spec.target] = _tied_view(spec, own, shards, rank, params)
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


def _places(specs: Sequence[ParamSpec], shards: Shards, rank: int, params: dict[str, Tensor]) -> list[Tensor]:
    """The rows of its target that each spec fills: one part's after the other's."""
    filled = dict.fromkeys(params, 0)
    places: dict[ParamSpec, Tensor] = {}
    for spec in sorted(specs, key=lambda spec: spec.part):
        rows = shards.local_shape(spec, rank)[0]
        places[spec] = params[spec.target].narrow(0, filled[spec.target], rows)
        filled[spec.target] += rows
    return [places[spec] for spec in specs]


def _tied_view(
    spec: ParamSpec, own: Sequence[ParamSpec], shards: Shards, rank: int, params: dict[str, Tensor]
) -> Tensor:
    """The rows of the embedding that are `spec`'s slice on `rank`."""
    owner = next(other for other in own if other.name == spec.name)
    whole = (0, spec.shape[0])
    first = (shards.interval(owner, rank) or whole)[0]
    lo, hi = shards.interval(spec, rank) or whole
    return params[owner.target][lo - first : hi - first]


@dataclass(slots=True)
class _Load:
    """Fills `place` with a slice of a tensor, and counts what is not finite in it."""

    info: TensorInfo
    place: Tensor
    check_finite: bool
    nan: int = 0
    infinite: int = 0
    overflown: int = 0

    def run(self, reader: SliceReader, dim: int | None, interval: tuple[int, int] | None) -> list[str]:
        """Reads the slice; returns the problems found."""
        try:
            for row, values in reader.pieces(self.info, dim, interval):
                converted = values.to(self.place.dtype)
                if self.check_finite and not _surely_finite(converted):
                    self._count(values, converted)
                self.place[row : row + len(values)].copy_(converted)
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
    that overflowed."""
    total = values.sum(dtype=torch.float64 if values.dtype == torch.float64 else torch.float32)
    return bool(total.isfinite())
