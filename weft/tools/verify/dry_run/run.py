"""Runs the decoder as one rank of any world on meta tensors, and counts memory and collectives."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from weft.base.settings import TOKENS_PER_BLOCK
from weft.base.step.plan import GroupPlan, ScheduledRequest, StepPlan
from weft.compute.comm.base import Group
from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.base import Numerics, RotaryTables
from weft.model.models.build import build_decoder
from weft.model.models.decoder import Batch, Decoder
from weft.model.models.dispatch import uniform_splits
from weft.model.models.kv_exchange import GroupRows
from weft.model.models.pipeline import PipelineStage
from weft.model.models.transitions import Transitions
from weft.parallel.arch.forward_plan import rank_plans
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.boundaries import SAMPLED_COLUMNS, RoutedExchange
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.pipeline_p2p import PipelineTransfer
from weft.parallel.layout.ranks import Coords, coords
from weft.parallel.layout.rows import RowTable
from weft.parallel.layout.support import refuse_without_model_code
from weft.parallel.layout.transition import Step
from weft.runtime.worker.tensors.gathered_keys import KeyGathering
from weft.runtime.worker.tensors.inputs import InputBuilder
from weft.runtime.worker.tensors.step_shape import Geometry
from weft.tools.explain.memory import held_bytes
from weft.tools.explain.traffic import decode_tables
from weft.tools.verify.dry_run.comm import RecordingComm
from weft.tools.verify.dry_run.ops import ShapeOps


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective of one step, with what this rank receives in one call, and where (a boundary's name). Of routed rows
    `nbytes` is that of even choices, `most` what it can be."""

    kind: str
    ranks: Group
    nbytes: int
    calls: int
    where: str
    most: int


@dataclass(frozen=True, slots=True)
class DryRun:
    """What one rank holds and does in a step with `batch` decode rows, or the first `prompt_rows` rows of a prompt, in
    every attention-dp group. Bytes."""

    rank: int
    coords: Coords
    batch: int
    params_by_module: Mapping[str, int]
    kv_bytes_per_token: int
    activation_peak: int
    collectives: tuple[Collective, ...]
    prompt_rows: int = 0

    @property
    def param_bytes(self) -> int:
        """Of all parameters."""
        return sum(self.params_by_module.values())


@dataclass(frozen=True, slots=True)
class PromptStep:
    """A step with the first `rows` rows of a prompt in every attention-dp group. `block_size`: tokens of a KV block."""

    rows: int
    block_size: int = TOKENS_PER_BLOCK


def dry_run(
    shards: Shards,
    rank: int,
    dtype: torch.dtype,
    batch: int,
    prompt: PromptStep | None = None,
) -> DryRun:
    """One step of `rank`: of `batch` decode rows, or of a prompt. The other ranks do not exist.

    Raises LayoutError for what the model code does not do yet.
    """
    refuse_without_model_code(shards.layout)
    numerics, layout = Numerics(dtype), shards.layout
    at, count = coords(layout, rank), len(shards.layers_of(rank))
    noted = _CountingTransitions(shards, RecordingComm(rank % shards.layout.stage_size, shards.layout.stage_size))
    with torch.device("meta"), torch.inference_mode():
        decoder = _decoder(shards, rank, numerics, noted, at.stage)
        inputs = _batch(shards, rank, batch) if prompt is None else _prompt_batch(shards, rank, prompt, numerics)
        cache = _cache(shards, rank, numerics, TOKENS_PER_BLOCK if prompt is None else prompt.block_size)
        pipeline = PipelineStage(shards, rank, noted, dtype, torch.device("meta"))
        with _Peak() as peak:
            found = decoder.forward(inputs, [cache] * count, pipeline.arrived(inputs))
            pipeline.pass_on(found, inputs)
            if pipeline.last:
                values = found.new_empty(found.shape[0], SAMPLED_COLUMNS, dtype=torch.int64)
                pipeline.send_ids(decoder.share_sampled(values, inputs), inputs.sampled)
            if pipeline.first and not pipeline.last:
                pipeline.received_ids(pipeline.id_rows(inputs.sampled))
    return DryRun(
        rank=rank,
        coords=at,
        batch=batch,
        params_by_module=held_bytes(shards, rank, dtype.itemsize),
        kv_bytes_per_token=shards.kv_bytes_per_token(rank, dtype.itemsize),
        activation_peak=peak.most,
        prompt_rows=prompt.rows if prompt else 0,
        collectives=(*_collectives(noted, shards, inputs.rows, dtype.itemsize, rank), *noted.messages(rank)),
    )


def _collectives(
    noted: _CountingTransitions, shards: Shards, rows: RowTable, itemsize: int, rank: int
) -> Iterator[Collective]:
    """What was called, by the ranks of the world."""
    first = rank - noted.comm.rank
    most = {each.name: _most(each, rows, noted.comm.rank) * itemsize for each in shards.forward_plan.exchanges}
    for (kind, ranks, size, where), calls in noted.calls.items():
        yield Collective(kind, tuple(first + member for member in ranks), size, calls, where, most.get(where, size))


def _most(exchange: RoutedExchange, rows: RowTable, rank: int) -> int:
    """Elements that the rank of the stage can receive."""
    size, place = exchange.block.size, rank % exchange.block.size
    received = exchange.block.most_received(rows.rows[rank - place : rank - place + size], place)
    return received[0 if exchange.way == "dispatch" else 1] * exchange.width


class _CountingTransitions(Transitions):
    """Gives the comm the rank's rows before each boundary, and counts the recorded calls under the boundary's name."""

    def __init__(self, shards: Shards, comm: RecordingComm) -> None:
        super().__init__(shards.forward_plan.boundaries, comm)
        self._recording = comm
        self.calls: Counter[tuple[str, Group, int, str]] = Counter()
        self._messages: list[tuple[str, int, int, str]] = []

    def run(self, name: str, steps: tuple[Step, ...], x: Tensor, table: RowTable) -> Tensor:
        self._recording.own_rows = table.count(self.comm.rank, self.comm.rank + 1)
        moved = super().run(name, steps, x, table)
        self._file(name)
        return moved

    def gather(self, name: str, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        super().gather(name, x, outs, group)
        self._file(name)

    def exchange(self, name: str, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        super().exchange(name, xs, outs, group)
        self._file(name)

    def send(self, transfer: PipelineTransfer, x: Tensor, peer: int) -> None:
        super().send(transfer, x, peer)
        self._message(peer, transfer.name.replace(".in", ".out"))

    def receive(self, transfer: PipelineTransfer, out: Tensor, peer: int) -> Tensor:
        found = super().receive(transfer, out, peer)
        self._message(peer, transfer.name)
        return found

    def _message(self, peer: int, name: str) -> None:
        ((kind, _, nbytes),) = self._recording.calls
        self._messages.append((kind, peer, nbytes, name))
        self._recording.calls.clear()

    def messages(self, rank: int) -> Iterator[Collective]:
        """What the rank receives from other stages and sends to them."""
        for kind, peer, nbytes, name in self._messages:
            yield Collective(kind, (min(rank, peer), max(rank, peer)), nbytes, 1, name, nbytes)

    def _file(self, name: str) -> None:
        for kind, ranks, nbytes in self._recording.calls:
            self.calls[kind, ranks, nbytes, name] += 1
        self._recording.calls.clear()


def _decoder(shards: Shards, rank: int, numerics: Numerics, noted: _CountingTransitions, stage: int) -> Decoder:
    shapes = shards.target_shapes(rank)
    params = {name: torch.empty(shape, dtype=numerics.dtype) for name, shape in shapes.items()}
    for spec in filter(shards.is_view, shards.specs):
        params[spec.target] = torch.empty(shards.local_shape(spec, rank), dtype=numerics.dtype)
    config = shards.config
    ropes = [RotaryTables(torch.empty(config.max_position, config.rope_dim))] * config.num_layers
    return build_decoder(shards, params, noted.comm, ShapeOps(numerics), ropes, noted, stage, uniform_splits)


def _batch(shards: Shards, rank: int, batch: int) -> Batch:
    layout, held = shards.layout, shards.forward_plan.residual.size
    rows, sampled = decode_tables(layout, batch)
    tp, of_stage = layout.attention.tp, rank % layout.stage_size
    first, own = of_stage // held * held, of_stage // tp * tp
    count = rows.count(own, own + tp)
    meta, among = _meta(count), torch.zeros(sampled.count(first, first + held), dtype=torch.int64)
    group = _group(layout, of_stage, rows, batch) if layout.kv_owners > 1 else None
    return Batch(torch.zeros(count, 1, dtype=torch.int64), meta, rows, sampled, among, meta, group, group)


def _prompt_batch(shards: Shards, rank: int, prompt: PromptStep, numerics: Numerics) -> Batch:
    """As a rank makes it from a plan."""
    meta, layout, plan = torch.device("meta"), shards.layout, shards.forward_plan
    geometry = Geometry(layout, rank, prompt.block_size, meta, plan.residual)
    price, item = plan.key_gather, numerics.dtype.itemsize
    gathering = None if price is None else KeyGathering(geometry, price, item)
    blocks = list(range(1, 1 + -(-prompt.rows // geometry.owners.span)))
    run = ScheduledRequest(0, 0, prompt.rows, [0] * prompt.rows, blocks, sample=True)
    step = StepPlan(0, [GroupPlan(runs=[run])] * layout.attention.dp)
    of_rank = rank_plans(plan, layout, prompt.block_size, item).split(step)[geometry.group]
    last_ids = torch.zeros(1, dtype=torch.int64, device=meta)
    return InputBuilder(geometry, last_ids, len(blocks), gathering).build(of_rank).batch


def _meta(rows: int) -> AttentionMeta:
    numbers = torch.zeros(rows, dtype=torch.int32)
    return AttentionMeta(numbers, numbers, numbers, numbers[:, None], tuple(range(1, rows + 1)))


def _group(layout: Layout, rank: int, rows: RowTable, batch: int) -> GroupRows:
    """The rows of the group of a rank of the stage."""
    if layout.attention.cp == 1:
        return GroupRows(_meta(batch))
    tp, first = layout.attention.tp, rank - rank % layout.group_size
    blocks = range(first, first + layout.group_size, tp)
    of_blocks = [torch.zeros(rows.count(block, block + tp), dtype=torch.int64) for block in blocks]
    return GroupRows(_meta(batch), tuple(of_blocks), torch.zeros(batch, dtype=torch.int64))


def _cache(shards: Shards, rank: int, numerics: Numerics, block_size: int) -> KVCache:
    """A cache of one block: what attention would read is not counted here."""
    heads, dims = shards.cache_shape(rank)
    k = torch.empty(2, heads, block_size, dims, dtype=numerics.cache_dtype)
    return KVCache(k, k if shards.config.mla else torch.empty_like(k))


class _Peak(TorchDispatchMode):
    """The most bytes of results that are alive at one time; a storage counts once, while any of its views lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch says no types
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
