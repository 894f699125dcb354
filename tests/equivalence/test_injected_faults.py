"""Both equivalence suites turn red on each of these faults; each is injected into the product from here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import weft.parallel.arch.shards as shards
import weft.runtime.worker.tensors.inputs as inputs
from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    EXACT,
    MIXED,
    Sizes,
    largest_difference,
    layout_of,
    make_executor,
    run_workload,
    same_bits,
)
from weft.compute.comm.lockstep import LockstepComm
from weft.compute.ops.attention import AttentionBackend, AttentionMeta
from weft.compute.ops.base import Numerics
from weft.compute.ops.interface import Ops
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.model.layers import Attention, Embedding, OProj
from weft.parallel.layout.placement import Interval
from weft.parallel.layout.splits import even_splits, splits_after

Patch = pytest.MonkeyPatch
FP64 = Numerics(torch.float64)


def wrap(patch: Patch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replaces owner.name by around(original, *arguments)."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: around(original, *args, **kwargs))


def wrap_ops(patch: Patch, name: str, around: Callable[..., Any]) -> None:
    """Wraps an operation in every implementation that the suites run, once each."""
    guarded, bases = _once(around), [base for kind in _implementations(TorchOps) for base in kind.__mro__]
    for owner in dict.fromkeys(bases):
        if name in vars(owner) and not getattr(vars(owner)[name], "__isabstractmethod__", False):
            wrap(patch, owner, name, guarded)


def _implementations(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _implementations(child)


def _once(around: Callable[..., Any]) -> Callable[..., Any]:
    """Leaves the calls alone that an implementation makes to its parent."""
    depth = [0]

    def guarded(original: Callable[..., Any], *args: Any) -> Any:
        if depth[0]:
            return original(*args)
        depth[0] += 1
        try:
            return around(original, *args)
        finally:
            depth[0] -= 1

    return guarded


def wrong_kv_head(patch: Patch) -> None:
    def around(original: Callable[..., None], self: Attention, *args: Any) -> None:
        original(self, *args)
        self.spec = dataclasses.replace(self.spec, kv_of_head=(self.spec.kv_of_head + 1) % self.heads.kv)

    wrap(patch, Attention, "__init__", around)


def position_off_by_one(patch: Patch) -> None:
    def around(original: Callable[..., Tensor], ops: Any, *args: Any) -> Tensor:
        meta = args[-2]
        original(ops, *args)
        moved = dataclasses.replace(meta, positions=meta.positions + 1, slots=torch.zeros_like(meta.slots))
        return original(ops, *args[:-2], moved, args[-1])

    wrap_ops(patch, "qkv", around)


def oldest_key_dropped(patch: Patch) -> None:
    def around(original: Callable[..., Tensor], ops: Any, *args: Any) -> Tensor:
        return original(ops, *args[:-1], dataclasses.replace(args[-1], window=max(MIXED_LENGTHS) - 1))

    wrap(patch, Ops, "attention", around)


MIXED_LENGTHS = [len(prompt) + MIXED.max_tokens - 1 for prompt in MIXED.prompts]


def partial_dropped_on_one_row(patch: Patch) -> None:
    def reduce(original: Callable[..., Any], comm: LockstepComm, x: Tensor, group: Any) -> Any:
        if comm.rank == group[-1]:
            x[:1] = 0
        return original(comm, x, group)

    def scatter(original: Callable[..., Any], comm: LockstepComm, xs: Any, out: Tensor, group: Any) -> Any:
        if comm.rank == group[-1]:
            for x in xs:
                x[:1] = 0
        return original(comm, xs, out, group)

    wrap(patch, LockstepComm, "all_reduce", reduce)
    wrap(patch, LockstepComm, "reduce_scatter", scatter)


def rows_of_two_requests_swapped(patch: Patch) -> None:
    def around(original: Callable[..., Tensor], *args: Any) -> Tensor:
        ids = original(*args)
        return torch.cat((ids[-1:], ids[1:-1], ids[:1])) if len(ids) > 1 else ids

    wrap(patch, inputs, "_ids", around)


def slice_loaded_in_group_order(patch: Patch) -> None:
    def ordered(cuts: tuple[Interval, ...], k: int) -> tuple[Interval, ...]:
        return tuple(sorted(splits_after(cuts, k)))

    patch.setattr(shards, "splits_after", ordered)


def bias_added_twice(patch: Patch) -> None:
    wrap(patch, OProj, "add_bias", lambda original, self, x: original(self, original(self, x)))


def key_written_to_the_null_block(patch: Patch) -> None:
    def around(original: Callable[..., tuple[AttentionMeta, Any]], *args: Any) -> tuple[AttentionMeta, Any]:
        meta, positions = original(*args)
        slots = meta.slots.clone()
        slots[:1] = 0
        return dataclasses.replace(meta, slots=slots), positions

    wrap(patch, inputs, "_meta", around)


def embedding_shard_off_by_one(patch: Patch) -> None:
    def around(original: Callable[..., None], self: Embedding, *args: Any) -> None:
        original(self, *args)
        self.lo += self.lo > 0

    wrap(patch, Embedding, "__init__", around)


def vocabulary_shards_exchanged(patch: Patch) -> None:
    def exchanged(n: int, k: int) -> tuple[Interval, ...]:
        cuts = even_splits(n, k)
        return (*cuts[1::-1], *cuts[2:])

    patch.setattr(shards, "even_splits", exchanged)


def decode_row_takes_another_slots_id(patch: Patch) -> None:
    def around(original: Callable[..., Tensor], tokens: Any, from_slot: Any, last_ids: Tensor) -> Tensor:
        return original(tokens, from_slot, last_ids.roll(1))

    wrap(patch, inputs, "_ids", around)


def context_of_the_neighbour(patch: Patch) -> None:
    def around(original: Callable[..., Any], backend: AttentionBackend[Any], meta: AttentionMeta) -> Any:
        tables = meta.block_tables.clone()
        tables[:1] = meta.block_tables[-1:]
        return original(backend, dataclasses.replace(meta, block_tables=tables))

    guarded = _once(around)
    for kind in _implementations(AttentionBackend):
        if kind is not AttentionBackend and "prepare" in vars(kind):
            wrap(patch, kind, "prepare", guarded)


FAULTS: dict[Callable[[Patch], None], tuple[int, Sizes]] = {
    wrong_kv_head: (2, (2, 1, 2, 1, 1)),
    position_off_by_one: (2, (1, 2, 1, 1, 1)),
    oldest_key_dropped: (2, (2, 2, 2, 2, 2)),
    partial_dropped_on_one_row: (3, (3, 1, 3, 1, 3)),
    rows_of_two_requests_swapped: (2, (2, 1, 1, 2, 1)),
    slice_loaded_in_group_order: (6, (3, 6, 1, 1, 1)),
    bias_added_twice: (2, (1, 2, 2, 1, 1)),
    key_written_to_the_null_block: (3, (1, 3, 1, 1, 3)),
    embedding_shard_off_by_one: (4, (1, 1, 1, 4, 1)),
    vocabulary_shards_exchanged: (3, (1, 1, 1, 1, 3)),
    decode_row_takes_another_slots_id: (2, (2, 2, 1, 1, 2)),
    context_of_the_neighbour: (2, (2, 1, 1, 1, 2)),
}


def is_red(model: Model, world: int, sizes: Sizes) -> bool:
    """Whether the suite's comparison fails."""
    found = run_workload(make_executor(model.path, layout_of(world, sizes), model.numerics), MIXED)
    if model.numerics.exact:
        return not same_bits(found, model.reference)
    return not largest_difference(found, model.reference) < 1e-10


@pytest.mark.parametrize("numerics", [EXACT, FP64], ids=["exact", "fp64"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_turns_the_suite_red(
    fault: Callable[[Patch], None],
    numerics: Numerics,
    model: Callable[[str, Numerics], Model],
    monkeypatch: Patch,
) -> None:
    case = model("biased", numerics)
    assert not is_red(case, *FAULTS[fault])
    fault(monkeypatch)
    assert is_red(case, *FAULTS[fault])
