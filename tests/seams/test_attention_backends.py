"""Every attention backend does what the seam says; partial outputs over any split of keys merge to the whole.

A backend is added in one file: `ToyAttention` here is one, chosen by its name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.compute.ops.paged_cases import Case, Run, Sizes, attended, dense_attention, paged
from tests.support.native_libraries import need
from weft.base.errors import ConfigError, WeftError
from weft.compute.native.step_library import Pool, open_library
from weft.compute.ops import Numerics, Ops, make_ops
from weft.compute.ops.attention import (
    AttentionBackend,
    AttentionMeta,
    AttentionSpec,
    KeyShare,
    KVCache,
    merge_partials,
    pack_partial,
    partial_of_lse,
)
from weft.compute.ops.attention_registry import BACKENDS, Backends
from weft.compute.ops.native.attention import StepAttention
from weft.compute.ops.reference.exact_ops import ExactAttention, on_grid, snap
from weft.compute.ops.reference.paged_attention import TorchAttention

CPU = torch.device("cpu")
RUNS: tuple[Run, ...] = ((0, 37, 1), (100, 1, 2), (250, 20, 3), (0, 1, 4), (3, 130, 6))
SIZES = {
    "grouped": Sizes((0, 0, 0, 1, 1, 1, 2, 2, 2), 3, 64, 16),
    "window": Sizes((0, 1, 1, 1), 2, 10, 5, window=7),
    "crossed": Sizes((1, 0), 2, 32, 32),
}


class ToyAttention(AttentionBackend[AttentionMeta]):
    """Loops over rows and heads. Gives partial outputs from a divided output and its log of a sum."""

    name = "toy"
    divides_first = True

    def why_not(self, spec: AttentionSpec, dtype: torch.dtype, device: torch.device) -> str:
        return "its loops take heads of at most 64 dims" if spec.dim > 64 else ""

    def prepare(self, meta: AttentionMeta) -> AttentionMeta:
        return meta

    def forward(
        self, q: Tensor, cache: KVCache, prepared: AttentionMeta, spec: AttentionSpec, *, partial: bool = False
    ) -> Tensor:
        rows, heads, dim = q.shape
        dtype = torch.promote_types(q.dtype, torch.float32)
        out, lse = torch.zeros(rows, heads, dim, dtype=dtype), torch.zeros(rows, heads, dtype=dtype)
        for row in range(rows):
            at = torch.arange(int(prepared.positions[row]) + 1)
            if spec.window:
                at = at[-spec.window :]
            size, owners = cache.k.shape[2], 1
            if (share := prepared.share) is not None:
                at, owners = at[at // size % share.owners == share.owner], share.owners
            blocks = prepared.block_tables[int(prepared.run_of_row[row])][at // size // owners].long()
            for head in range(heads):
                kv = int(spec.kv_of_head[head])
                k, v = (x[blocks, kv, at % size].to(dtype) for x in (cache.k, cache.v))
                scores = k @ q[row, head].to(dtype) * spec.scale
                out[row, head], lse[row, head] = scores.softmax(-1) @ v, scores.logsumexp(-1)
        return partial_of_lse(out, lse) if partial else out.flatten(1).to(q.dtype)


TOY: Backends = {**BACKENDS, "toy": lambda ops: ToyAttention()}


def backend_named(name: str) -> AttentionBackend[Any]:
    if name == "step":
        need("step")
        library = open_library()
        assert library is not None
        return StepAttention(Pool(library, 1))
    others: dict[str, AttentionBackend[Any]] = {
        "toy": ToyAttention(),
        "torch": TorchAttention(),
        "exact": ExactAttention(TorchAttention()),
    }
    return others[name]


@pytest.fixture(params=["torch", "step", "toy", "exact"])
def backend(request: pytest.FixtureRequest) -> AttentionBackend[Any]:
    return backend_named(str(request.param))


@pytest.fixture(params=["torch", "step", "toy", "exact"])
def splitting(request: pytest.FixtureRequest) -> AttentionBackend[Any]:
    """Those that give partial outputs."""
    return backend_named(str(request.param))


def spec_of(sizes: Sizes) -> AttentionSpec:
    return AttentionSpec(torch.tensor(sizes.kv_of_head, dtype=torch.int32), sizes.dim, sizes.scale, sizes.window)


def run(backend: AttentionBackend[Any], sizes: Sizes, case: Case, share: KeyShare | None = None) -> Tensor:
    """The output, or the partial one over the blocks of a share."""
    meta = case.meta
    if share is not None:
        tables = case.meta.block_tables[:, share.owner :: share.owners].contiguous()
        nothing = tables.new_zeros(len(tables), 1)
        meta = replace(meta, block_tables=tables if tables.shape[1] else nothing, share=share)
    return backend.forward(case.q, case.cache, backend.prepare(meta), spec_of(sizes), partial=share is not None)


def splits(parts: int) -> list[KeyShare]:
    """Blocks in turn."""
    return [KeyShare(part, parts) for part in range(parts)]


NOTHING = KeyShare(1000, 1001)
"""Blocks beyond every context."""


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_output_is_attention(backend: AttentionBackend[Any], sizes: Sizes) -> None:
    assert backend.why_not(spec_of(sizes), torch.float64, CPU) == ""
    found = run(backend, sizes, paged(sizes, RUNS, torch.float64)).double()
    tolerance = 1 / 64 if isinstance(backend, ExactAttention) else 1e-12
    assert (found - dense_attention(sizes, RUNS, torch.float64)).abs().max() < tolerance


def test_no_rows_have_no_output(backend: AttentionBackend[Any]) -> None:
    sizes = SIZES["grouped"]
    assert run(backend, sizes, paged(sizes, (), torch.float64)).shape == (0, 9 * 64)


def test_a_cache_has_room_for_keys_and_values(backend: AttentionBackend[Any]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        layout = backend.cache_layout(3, 64, 16, dtype)
        cache = layout.cache(torch.zeros(5, *layout.shape, dtype=dtype))
        assert cache.k.shape == cache.v.shape == (5, 3, 16, 64) and cache.packed == layout.packed
        assert cache.k.data_ptr() != cache.v.data_ptr()
        latent = backend.cache_layout(1, 64, 16, dtype, latent=True)
        one = latent.cache(torch.zeros(5, *latent.shape, dtype=dtype))
        assert one.k.data_ptr() == one.v.data_ptr() and not one.packed


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_any_split_of_keys_merges_to_the_whole(splitting: AttentionBackend[Any], sizes: Sizes, parts: int) -> None:
    case = paged(sizes, RUNS, torch.float64)
    whole = run(splitting, sizes, case)
    pieces = [run(splitting, sizes, case, share) for share in (*splits(parts), NOTHING)]
    rows, heads = len(case.q), len(sizes.kv_of_head)
    assert all(piece.shape == (rows, heads * (sizes.dim + 2)) and piece.dtype == torch.float64 for piece in pieces)
    merged = splitting.merge(pieces, heads)
    assert (merged.double() - whole.double()).abs().max() < 1e-13
    assert torch.equal(snap(merged), snap(whole))  # bit for bit on the exact model's grid
    if isinstance(splitting, ExactAttention):
        assert torch.equal(merged, whole) and on_grid(merged)


@pytest.mark.parametrize("name", ["torch", "step"])
def test_exact_ties_merge_bit_for_bit(name: str) -> None:
    """Scores that are all equal: every weight is 1 and every sum is exact, whatever the split."""
    sizes = Sizes((0, 0, 1), 2, 8, 4)
    case = paged(sizes, ((0, 64, 1),), torch.float64)
    case.cache.v.copy_(torch.randint(-64, 65, case.cache.v.shape) / 64)
    flat = Case(torch.zeros_like(case.q), case.cache, case.meta, case.kv_of_head)
    backend, whole = backend_named(name), run(TorchAttention(), sizes, flat)
    for parts in (1, 2, 3, 4):
        pieces = [run(backend, sizes, flat, share) for share in splits(parts)]
        assert torch.equal(backend.merge(pieces, 3), whole)
        assert torch.equal(backend.merge(pieces[::-1], 3), whole)


def test_a_row_that_saw_no_key_is_zero_and_no_nan(splitting: AttentionBackend[Any]) -> None:
    sizes = SIZES["window"]
    case = paged(sizes, RUNS, torch.float64)
    nothing = run(splitting, sizes, case, NOTHING)
    state = nothing.view(len(case.q), 4, sizes.dim + 2)
    assert (state[..., :-2] == 0).all() and (state[..., -1] == 0).all() and (state[..., -2] == -torch.inf).all()
    assert (splitting.merge([nothing, nothing], 4) == 0).all()


@pytest.mark.parametrize("name", ["torch", "step"])
def test_partial_outputs_of_halves_are_in_fp32(name: str) -> None:
    sizes, backend = SIZES["grouped"], backend_named(name)
    case = paged(sizes, RUNS, torch.bfloat16)
    pieces = [run(backend, sizes, case, share) for share in splits(2)]
    assert {piece.dtype for piece in pieces} == {torch.float32}
    merged = backend.merge(pieces, 9)
    assert (merged.double() - dense_attention(sizes, RUNS, torch.bfloat16)).abs().max() < 2e-2


def test_an_output_with_its_lse_is_taken_with_sum_1() -> None:
    scores, values = torch.randn(4, 3, 50, dtype=torch.float64), torch.randn(50, 8, dtype=torch.float64)
    whole = scores.softmax(-1) @ values
    pieces = []
    for at in (slice(0, 20), slice(20, 21), slice(21, 50)):
        pieces.append(partial_of_lse(scores[..., at].softmax(-1) @ values[at], scores[..., at].logsumexp(-1)))
    pieces.append(partial_of_lse(torch.full((4, 3, 8), torch.nan).double(), torch.full((4, 3), -torch.inf).double()))
    assert (pieces[0].view(4, 3, 10)[..., -1] == 1).all()
    assert (merge_partials(pieces, 3).view(4, 3, 8) - whole).abs().max() < 1e-14
    assert ToyAttention.divides_first and not TorchAttention.divides_first


@pytest.mark.parametrize("name", ["torch", "step"])
def test_parts_are_added_in_the_given_order(name: str) -> None:
    sums, level, backend = torch.tensor([1.0, 2.0**-24, 2.0**-24]), torch.zeros(1, 1, 1), backend_named(name)
    pieces = [pack_partial(each.view(1, 1, 1), level, torch.ones(1, 1, 1)) for each in sums]
    assert torch.equal(backend.merge(pieces, 1), torch.tensor([[1.0]]) / 3)
    assert torch.equal(backend.merge(pieces[::-1], 1), torch.tensor([[1 + 2.0**-23]]) / 3)


def toy_ops(dtype: torch.dtype = torch.float32) -> Ops:
    return make_ops(Numerics(dtype), CPU, attention="toy", attention_backends=TOY)


def test_a_toy_backend_is_chosen_by_name() -> None:
    ops, sizes = toy_ops(), SIZES["window"]
    assert ops.attention_backend.name == "toy"
    case = paged(sizes, RUNS[:2], torch.float32)
    found = attended(ops, case.q, case.cache, case.kv_of_head, sizes.scale, case.meta, sizes.window)
    assert (found.double() - dense_attention(sizes, RUNS[:2], torch.float32)).abs().max() < 1e-5


def test_an_unknown_backend_is_refused_with_the_legal_names() -> None:
    with pytest.raises(ConfigError, match="legal with operations of .*: auto, .*torch, toy"):
        make_ops(Numerics(torch.float32), CPU, attention="flash", attention_backends=TOY)


def test_a_layer_that_the_backend_does_not_take_is_refused_by_name() -> None:
    spec = spec_of(Sizes((0,), 1, 128, 16))
    with pytest.raises(WeftError, match="attention backend toy: its loops take heads of at most 64 dims"):
        toy_ops().attention_backend.taken(spec, torch.float32, CPU)
    with pytest.raises(WeftError, match="attention backend step: it has no kernels for float16"):
        backend_named("step").taken(spec, torch.float16, CPU)
