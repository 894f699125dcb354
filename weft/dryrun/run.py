"""Runs the decoder as one rank of any world on tensors without content, and counts. Knows no file of weights."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from weft.arch.shards import Shards
from weft.comm.base import Group
from weft.dryrun.comm import RecordingComm
from weft.dryrun.ops import ShapeOps
from weft.errors import LayoutError
from weft.layout.boundaries import SAMPLED_COLUMNS
from weft.layout.layout import Layout
from weft.layout.ranks import Coords, coords
from weft.layout.rows import RowTable, row_table, sampled_table
from weft.layout.transition import Step
from weft.models.build import boundaries_of, build_decoder
from weft.models.decoder import Batch, Decoder
from weft.models.transitions import Transitions
from weft.ops.base import AttentionMeta, KVCache, Numerics


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective of one step, with what this rank receives in one call, and where (a boundary's name)."""

    kind: str
    ranks: Group
    nbytes: int
    calls: int
    where: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """What one rank holds and does in a step with `batch` decode rows in every attention-dp group. Bytes."""

    rank: int
    coords: Coords
    batch: int
    params_by_module: Mapping[str, int]
    kv_bytes_per_token: int
    activation_peak: int
    collectives: tuple[Collective, ...]

    @property
    def param_bytes(self) -> int:
        """Of all parameters."""
        return sum(self.params_by_module.values())


def _refuse(layout: Layout) -> None:
    dispatch = layout.experts.dispatch if layout.experts else "auto"
    found: dict[str, tuple[object, object]] = {
        "pipeline.stages": (layout.pipeline.stages, 1),
        "attention.cp": (layout.attention.cp, 1),
        "attention.kv_split": (layout.attention.kv_split, 1),
        "experts.dispatch": (dispatch, "all_gather" if dispatch == "all_to_all" else dispatch),
    }
    for field, (value, legal) in found.items():
        if value != legal:
            message = f"{field} {value}: the model code does not run it yet, so there is nothing to count; use {legal}"
            raise LayoutError(message, field=field, value=value, legal=(legal,))


def dry_run(shards: Shards, rank: int, dtype: torch.dtype, batch: int) -> DryRun:
    """One decode step of `rank`. Only its own rank is there: every other rank is a number.

    Raises LayoutError for what the model code does not do yet, so that nothing else is counted in its place.
    """
    _refuse(shards.layout)
    numerics = Numerics(dtype)
    noted = _Noted(shards, RecordingComm(rank % shards.layout.stage_size, shards.layout.stage_size))
    with torch.device("meta"), torch.inference_mode():
        decoder = _decoder(shards, rank, numerics, noted)
        inputs, cache = _batch(shards, rank, batch), _cache(shards, rank, numerics)
        with _Peak() as peak:
            logits = decoder.forward(inputs, [cache] * shards.config.num_layers)
            decoder.share_sampled(logits.new_empty(logits.shape[0], SAMPLED_COLUMNS, dtype=torch.int64), inputs)
    return DryRun(
        rank=rank,
        coords=coords(shards.layout, rank),
        batch=batch,
        params_by_module=shards.bytes(rank, dtype.itemsize),
        kv_bytes_per_token=shards.kv_bytes_per_token(rank, dtype.itemsize),
        activation_peak=peak.most,
        collectives=tuple(Collective(k, ranks, size, n, where) for (k, ranks, size, where), n in noted.calls.items()),
    )


class _Noted(Transitions):
    """Tells the comm whose rows move before each boundary, and files the calls that it took under its name."""

    def __init__(self, shards: Shards, comm: RecordingComm) -> None:
        super().__init__(boundaries_of(shards), comm)
        self._recording = comm
        self.calls: Counter[tuple[str, Group, int, str]] = Counter()

    def run(self, name: str, steps: tuple[Step, ...], x: Tensor, table: RowTable) -> Tensor:
        self._recording.own_rows = table.count(self.comm.rank, self.comm.rank + 1)
        moved = super().run(name, steps, x, table)
        self._file(name)
        return moved

    def _file(self, name: str) -> None:
        for call in self._recording.calls:
            self.calls[call.kind, call.ranks, call.nbytes, name] += 1
        self._recording.calls.clear()


def _decoder(shards: Shards, rank: int, numerics: Numerics, noted: _Noted) -> Decoder:
    params = {name: torch.empty(shape, dtype=numerics.dtype) for name, shape in shards.target_shapes(rank).items()}
    for spec in filter(shards.is_view, shards.specs):
        params[spec.target] = torch.empty(shards.local_shape(spec, rank), dtype=numerics.dtype)
    cos_sin = torch.empty(shards.config.max_position, shards.config.rope_dim)
    return build_decoder(shards, params, noted.comm, ShapeOps(numerics), cos_sin, noted)


def _batch(shards: Shards, rank: int, batch: int) -> Batch:
    layout = shards.layout
    rows = row_table([batch] * layout.attention.dp, layout.attention.tp)
    sampled, _ = sampled_table([range(batch)] * layout.attention.dp, rows, layout.attention.tp)
    numbers = torch.zeros(batch, dtype=torch.int32)
    meta = AttentionMeta(numbers, numbers, numbers, numbers[:, None], tuple(range(1, batch + 1)))
    own = torch.zeros(sampled.rows[rank % layout.stage_size], dtype=torch.int64)
    return Batch(torch.zeros(batch, 1, dtype=torch.int64), meta, rows, sampled, own)


def _cache(shards: Shards, rank: int, numerics: Numerics) -> KVCache:
    """A cache of one block: what attention would read is not counted here."""
    heads, dims = shards.cache_shape(rank)
    k = torch.empty(2, heads, 16, dims, dtype=numerics.cache_dtype)
    return KVCache(k, k if shards.config.mla else torch.empty_like(k))


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes of results that are alive at one time; a storage counts once, while any of its views lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._views: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self._enter(tensor)
        return result

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, nbytes = storage._cdata, storage.nbytes()
        if not self._views[key]:
            self.now += nbytes
            self.most = max(self.most, self.now)
        self._views[key] += 1
        weakref.finalize(tensor, self._leave, key, nbytes)

    def _leave(self, key: int, nbytes: int) -> None:
        self._views[key] -= 1
        if not self._views[key]:
            self.now -= nbytes
