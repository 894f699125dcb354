"""The report against brute force: bytes, shares and traffic counted from first principles, and its notes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from weft.base.errors import LayoutError
from weft.parallel.arch.block import BlockSpec
from weft.parallel.arch.config import ModelConfig, MoEConfig
from weft.parallel.arch.families import parse_config
from weft.parallel.arch.params import param_specs
from weft.parallel.arch.quantization import WeightStorage
from weft.parallel.arch.shards import Shards
from weft.parallel.layout import resolve
from weft.parallel.layout.transition import Step
from weft.tools.explain import LayoutReport, explain, memory, print_report, traffic
from weft.tools.explain.memory import alike_weights, distinct, memory_of_ranks

SMOLLM2 = parse_config(json.loads((Path(__file__).parent / "data" / "config.json").read_text()))
SMALL = ModelConfig(
    family="qwen2",
    hidden_size=24,
    intermediate_size=40,
    num_layers=4,
    num_heads=6,
    num_kv_heads=2,
    head_dim=4,
    vocab_size=50,
    max_position=64,
    block=BlockSpec(qkv_bias=True),
)


def report_of(config: ModelConfig, values: dict[str, object], world: int | None = None, batch: int = 5) -> LayoutReport:
    return explain("m", config, resolve(values, world), dtype="float32", batch=batch)


LAYOUTS: list[tuple[dict[str, object], int]] = [
    ({}, 1),
    ({}, 4),
    ({"attention.tp": 2, "dense.tp": 4, "lm_head.tp": 1}, 4),
    ({"attention.tp": 3, "o_proj.tp": 6, "embedding.tp": 2}, 6),
    ({"attention.tp": 2, "o_proj.tp": 3, "dense.tp": 6, "lm_head.tp": 6}, 6),
    ({"attention.tp": 4, "attention.split": "balanced"}, 4),
]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("values", "world"), LAYOUTS)
def test_blocks_hold_the_model_once(values: dict[str, object], world: int, tied: bool) -> None:
    config = replace(SMALL, tie_embeddings=tied)
    report = report_of(config, values, world)
    layout = report.layout
    whole = {
        module: 4 * sum(prod(s.shape) for s in param_specs(config) if s.module == module) for module in layout.sizes
    }
    for module in ("embedding", "dense", "lm_head"):
        size = layout.sizes[module]
        held = sum(rank.bytes[module] for rank in report.ranks[:size])
        copied = 0 if module != "lm_head" or not report.tied_view else whole[module]
        assert held == whole[module] - copied, module
    shards = Shards(config, layout)
    for rank in report.ranks:
        assert rank.bytes == shards.bytes(rank.rank, 4)
        assert rank.total == sum(rank.bytes.values())
        lo, hi = rank.kv_heads
        assert rank.kv_bytes_per_token == 2 * (hi - lo) * config.head_dim * config.num_layers * 4


@pytest.mark.parametrize(("values", "world"), LAYOUTS)
def test_shares_of_a_block_tile_the_module(values: dict[str, object], world: int) -> None:
    report = report_of(SMALL, values, world)
    for module, size in report.layout.sizes.items():
        for first in range(0, world, size):
            shares = [report.ranks[rank].shares[module] for rank in range(first, first + size)]
            columns = [column for share in shares for column in range(*share.interval)]
            assert sorted(columns) == list(range(shares[0].whole)), module


def expected_all_reduce(rows: list[int], width: int) -> list[int]:
    """Reduce-scatter (all members' addends of the own run), then all-gather (the other runs)."""
    return [((len(rows) - 1) * own + sum(rows) - own) * width * 4 for own in rows]


def test_plain_tensor_parallel_is_two_all_reduces_a_layer() -> None:
    report = explain("m", SMALL, resolve({}, tp=2), dtype="float32", batch=5)
    moved = {passed.boundary.name: passed for passed in report.boundaries if any(c.groups for c in passed.calls)}
    assert list(moved) == ["embedding.out", "o_proj.out", "dense.out", "lm_head.in", "lm_head.out", "sampling.out"]
    for name in ("o_proj.out", "dense.out"):
        (call,) = moved[name].calls
        assert (call.kind, call.groups, moved[name].times) == ("all_reduce", ((0, 1),), 4)
        assert [list(received.per_rank) for received in call.received] == [
            expected_all_reduce([1, 0], 24),
            expected_all_reduce([3, 2], 24),
        ]


def test_bytes_of_a_step_are_the_sum_over_boundaries_and_layers() -> None:
    report = report_of(SMALL, {"attention.tp": 2, "dense.tp": 4}, 4)
    for place, batch in enumerate(report.batches):
        totals = [0, 0, 0, 0]
        for passed in report.boundaries:
            times = 4 if passed.boundary.name.partition(".")[0] in ("attention", "o_proj", "dense") else 1
            assert passed.times == times
            for call in passed.calls:
                assert call.received[place].batch == batch
                totals = [a + times * b for a, b in zip(totals, call.received[place].per_rank, strict=True)]
        assert report.received_per_step(batch) == tuple(totals)
        assert sum(totals) > 0


def test_ids_count_eight_bytes_logits_four_and_activations_the_dtype() -> None:
    def bytes_of(dtype: str, name: str) -> int:
        report = explain("m", SMALL, resolve({"attention.tp": 2}), dtype=dtype)
        return next(p for p in report.boundaries if p.boundary.name == name).calls[0].received[0].total

    assert bytes_of("float32", "sampling.out") == bytes_of("bfloat16", "sampling.out") == 16
    assert bytes_of("float32", "lm_head.out") == bytes_of("bfloat16", "lm_head.out") == 4 * 25
    assert bytes_of("float32", "lm_head.in") == 2 * bytes_of("bfloat16", "lm_head.in") > 0


def test_stages_hold_their_own_layers() -> None:
    report = report_of(SMALL, {"pipeline.layers": (3, 1), "attention.tp": 2})
    plain = report_of(SMALL, {"attention.tp": 2})
    first, second = report.ranks[0], report.ranks[2]
    assert (first.layers, second.layers) == ((0, 3), (3, 4))
    for module in ("attention", "o_proj", "dense", "norm", "embedding", "lm_head"):
        assert first.bytes[module] + second.bytes[module] == plain.ranks[0].bytes[module]
    assert first.bytes["lm_head"] == second.bytes["embedding"] == 0
    assert first.kv_bytes_per_token == 3 * second.kv_bytes_per_token


def test_a_step_of_two_stages_moves_what_one_stage_moves() -> None:
    staged = report_of(SMALL, {"pipeline.layers": (3, 1), "attention.tp": 2})
    plain = report_of(SMALL, {"attention.tp": 2})
    times = {passed.boundary.name: passed.times_of_stage for passed in staged.boundaries}
    assert times["embedding.out"] == (1, 0) and times["dense.out"] == (3, 1) and times["lm_head.in"] == (0, 1)
    for batch in staged.batches:
        first, second = staged.received_per_step(batch)[:2], staged.received_per_step(batch)[2:]
        place = staged.batches.index(batch)
        hops = [hop.received[place].per_rank for hop in staged.hops]
        hops += [call.received[place].per_rank for hop in staged.hops for call in hop.gathers]
        together = tuple(a + b - sum(between) for a, b, *between in zip(first, second, *hops, strict=True))
        assert together == plain.received_per_step(batch)


def test_hops_between_stages() -> None:
    """The residual stream in fp32 from stage to stage, each row once, gathered where every rank of a block has it; ids
    back to the first."""
    for dense, gathered in ((2, 4), (1, 0)):
        layout = {"pipeline.layers": (1, 2, 1), "attention.tp": 2, "dense.tp": dense}
        hops = report_of(SMALL, layout, batch=8).hops
        shown = [(each.hop.name, each.hop.sender, each.hop.receiver) for each in hops]
        assert shown == [("stage.in", 0, 1), ("stage.in", 1, 2), ("ids.in", 2, 0)]
        stream, ids = hops[0].received[-1].per_rank, hops[2].received[-1].per_rank
        assert stream == (4 * SMALL.hidden_size * 4,) * 2 and ids == (8 * 2 * 8,) * 2
        gathers = [call.received[-1].per_rank for call in hops[0].gathers]
        assert gathers == ([(gathered * SMALL.hidden_size * 4,) * 2] if gathered else [])
    over = report_of(SMALL, {"pipeline.stages": 4, "attention.tp": 2, "nodes": 2}).hops
    assert [each.nodes for each in over] == [(), ((0, 1),), (), ((1, 0),)]
    assert report_of(SMALL, {"attention.tp": 2}).hops == ()


def codes(report: LayoutReport) -> dict[str, str]:
    return {note.code: note.message for note in report.notes}


def test_notes_name_imbalance_copies_and_ties() -> None:
    found = codes(report_of(SMOLLM2, {"attention.tp": 2, "attention.split": "groups", "dense.tp": 4}, 4))
    assert "6, 3 of 9 query heads" in found["uneven_heads"] and "balanced gives 5, 4" in found["uneven_heads"]
    assert "384, 192 columns" in found["uneven_o_proj"]
    assert found["residual"].endswith("not of attention's size 2: dense 4")
    assert "one copy" in found["tied_one_copy"]
    found = codes(report_of(SMOLLM2, {"attention.tp": 4, "lm_head.tp": 2}))
    assert "holds 4 KV heads for the model's 3" in found["kv_copies"] and "largest_logit" not in found
    assert "embedding has size 4, lm_head 2: a second copy, up to 54.0 MiB a rank" in found["tied_two_copies"]
    assert "16 bytes a row and rank" in codes(report_of(SMOLLM2, {"attention.tp": 2}))["largest_logit"]
    assert "largest_logit" not in codes(report_of(SMOLLM2, {"attention.tp": 2, "attention.dp": 2, "lm_head.tp": 4}))
    assert codes(report_of(SMALL, {})) == {
        "residual": "the residual stream lies on the rank that owns the row: attention has size 1"
    }


@pytest.mark.parametrize(
    ("values", "codes_wanted"),
    [
        ({"attention.cp": 2}, {"rows_of_owners", "positions_split"}),
        ({"attention.tp": 4, "attention.kv_split": 2}, {"positions_split"}),
    ],
)
def test_shared_contexts_are_explained(values: dict[str, object], codes_wanted: set[str]) -> None:
    report = report_of(SMALL, values)
    found = codes(report)
    assert codes_wanted <= set(found) and "not_served" not in found
    assert found["positions_split"].endswith("a prefix shorter than 2 blocks is not cached")
    assert len(report.ranks) == report.layout.world
    whole = report_of(SMALL, {**values, "attention.cp": 1, "attention.kv_split": 1})
    halves = {rank.kv_bytes_per_token for rank in report.ranks}
    assert halves == {rank.kv_bytes_per_token // 2 for rank in whole.ranks}


def test_what_owners_exchange_is_priced() -> None:
    """Of the other owner: queries of its heads, and partial outputs of the own heads."""
    report = report_of(SMALL, {"attention.tp": 4, "attention.kv_split": 2}, batch=8)
    queries, partials = report.of_owners
    heads, dim = [hi - lo for lo, hi in (rank.q_heads for rank in report.ranks)], SMALL.head_dim
    others = [heads[rank ^ 1] for rank in range(4)]
    assert queries.calls[0].groups == partials.calls[0].groups == ((0, 1), (2, 3))
    assert queries.calls[0].received[-1].per_rank == tuple(8 * each * dim * 4 for each in others)
    assert partials.calls[0].received[-1].per_rank == tuple(8 * each * (dim + 2) * 4 for each in heads)
    assert (queries.name, partials.name) == ("attention.queries", "attention.partials")
    assert queries.times == SMALL.num_layers


def test_both_forms_of_a_prompt_are_priced() -> None:
    """Gathered keys: the blocks of the other owner, of the rank's KV heads."""
    layout = resolve({"attention.tp": 4, "attention.kv_split": 2})
    report = explain("m", SMALL, layout, dtype="bfloat16", chunk=(40, 16))
    assert report.prompt is not None
    keys = report.prompt.exchanges[-1]
    heads = [hi - lo for lo, hi in (rank.kv_heads for rank in report.ranks)]
    blocks = (1, 2)  # of the other: 3 blocks, the first owner has one more
    wanted = tuple(blocks[rank % 2] * 16 * heads[rank] * 2 * SMALL.head_dim * 2 for rank in range(4))
    assert keys.calls[0].received[0].per_rank == wanted and keys.ends == ("keys and values", "every owner")
    names = [each.name for each in report.prompt.exchanges]
    assert names == ["attention.queries", "attention.partials", "attention.keys"]
    price = SMALL.num_heads * (SMALL.head_dim * 2 + (SMALL.head_dim + 2) * 4) / (2 * 2 * SMALL.head_dim * 2)
    assert report.prompt.longest == int(40 * price - 0.01) // 16 * 16
    assert report_of(SMALL, {"attention.tp": 4}).prompt is None
    with (console := Console(width=400)).capture() as text:
        print_report(report, console)
    assert f"so many rows of a prompt gather keys with contexts up to {report.prompt.longest:,} tokens" in text.get()


def test_context_parallel_ranks_share_a_groups_rows() -> None:
    report = report_of(SMALL, {"attention.tp": 2, "attention.cp": 2, "dense.tp": 4}, batch=8)
    (call,) = next(p for p in report.boundaries if p.boundary.name == "dense.in").calls
    assert call.received[1].per_rank == (6 * 24 * 4,) * 4


def test_experts_are_explained_as_sizes() -> None:
    moe = MoEConfig(num_experts=6, top_k=2, intermediate_size=20, shared_intermediate_size=8, first_layer=1)
    config = replace(SMALL, moe=moe)
    report = explain("m", config, resolve({"experts.slots": 8}, 4, num_experts=6), dtype="float32")
    routed = SMALL.num_layers - 1
    for rank in report.ranks:
        assert rank.slots == (2 * rank.rank, 2 * rank.rank + 2)
        assert rank.bytes["experts"] == 2 * 3 * 20 * SMALL.hidden_size * 4 * routed
        assert rank.bytes["shared_experts"] == 3 * 8 * SMALL.hidden_size * 4 * routed
        assert rank.bytes["router"] == 6 * SMALL.hidden_size * 4 * routed
    times = {passed.boundary.name: passed.times for passed in report.boundaries}
    assert times["experts.in"] == times["experts.out"] == times["shared_experts.in"] == routed
    assert times["dense.in"] == 1 and times["o_proj.out"] == SMALL.num_layers
    assert "not_served" not in codes(report)


@pytest.mark.parametrize(
    ("values", "world", "text"),
    [
        (
            {"attention.tp": 8},
            8,
            "attention tp 8: num_attention_heads is 6, not enough for every rank; "
            "legal with 8 ranks: 1, 2, 4; with others at most 6",
        ),
        (
            {"dense.tp": 60},
            60,
            "dense tp 60: intermediate_size is 40, not enough for every rank; legal with 60 ranks: 1, 2, 3",
        ),
        (
            {"lm_head.tp": 60},
            60,
            "lm_head tp 60: vocab_size is 50, not enough for every rank; legal with 60 ranks: 1, 2, 3",
        ),
        ({"embedding.tp": 60}, 60, "embedding tp 60: vocab_size is 50"),
        ({"o_proj.tp": 48}, 48, "o_proj tp 48: num_attention_heads * head_dim is 24, not enough for every rank"),
        ({"pipeline.stages": 5}, None, "pipeline stages 5: the model has 4 layers; legal: 1 to 4"),
        ({"pipeline.layers": (2, 1)}, None, "pipeline layers 2 + 1 = 3, but the model has 4 layers"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(values: dict[str, object], world: int | None, text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        report_of(SMALL, values, world)
    assert str(caught.value).startswith(text)
    if caught.value.legal and world:
        assert caught.value.field is not None
        for legal in caught.value.legal:
            report_of(SMALL, {**values, caught.value.field: legal}, world)


def test_o_proj_gives_every_rank_a_column_even_of_uneven_heads() -> None:
    """9 heads over 2 ranks by groups: 6 and 3; with head_dim 2, a block of 16 cuts the smaller share in 8."""
    config = replace(SMALL, num_heads=9, num_kv_heads=3, head_dim=2)
    with pytest.raises(LayoutError, match=r"o_proj tp 16: .*legal with 16 ranks: 1, 2, 4, 8$"):
        report_of(config, {"attention.tp": 2, "attention.split": "groups", "o_proj.tp": 16}, 16)


MIXTURE = ModelConfig(
    family="qwen3_moe",
    hidden_size=24,
    intermediate_size=40,
    num_layers=4,
    num_heads=8,
    num_kv_heads=8,
    head_dim=4,
    vocab_size=64,
    max_position=64,
    moe=MoEConfig(num_experts=16, top_k=2, intermediate_size=8),
)
FOLDED: list[tuple[ModelConfig, dict[str, object], int]] = [
    (SMALL, {"attention.tp": 2, "o_proj.tp": 3, "dense.tp": 6, "lm_head.tp": 6}, 12),
    (SMALL, {"attention.tp": 2, "pipeline.stages": 2, "pipeline.layers": (3, 1), "dense.tp": 4}, 16),
    (SMALL, {"attention.tp": 3, "attention.cp": 2, "replicas": 2}, 24),
    (MIXTURE, {"attention.tp": 2, "experts.ep": 8, "experts.slots": 16, "embedding.tp": 4}, 16),
    (MIXTURE, {"attention.tp": 4, "experts.tp": 2, "experts.ep": 3, "experts.slots": 18}, 12),
]


@pytest.mark.parametrize(("config", "values", "world"), FOLDED)
def test_ranks_that_are_alike_are_as_if_derived_alone(
    config: ModelConfig, values: dict[str, object], world: int
) -> None:
    shards = Shards(config, resolve(values, world, num_experts=config.num_experts))
    for rank in (found := memory_of_ranks(shards, 4)):
        alone = distinct(shards, rank.rank, 4, alike_weights(shards, rank.rank))
        assert replace(rank, alike=rank.rank) == alone
        assert rank.alike <= rank.rank and found[rank.alike].alike == rank.alike


@pytest.mark.parametrize("world", [256, 4096])
def test_work_follows_ranks_that_differ_not_the_world(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    """Attention 4 and experts 32 make 32 kinds of ranks and prices in any world; no pieces of messages are made."""
    counts: Counter[str] = Counter()
    for place, name in ((memory, "distinct"), (traffic, "received_bytes")):
        monkeypatch.setattr(place, name, counted(counts, name, getattr(place, name)))
    monkeypatch.setattr(Step, "received", counted(counts, "pieces", Step.received))
    values: dict[str, object] = {"attention.tp": 4, "experts.ep": 32, "experts.dispatch": "all_gather"}
    config = replace(MIXTURE, moe=MoEConfig(num_experts=64, top_k=2, intermediate_size=8))
    report = explain("m", config, resolve(values, world, num_experts=64), dtype="float32", batch=8)
    assert len(report.ranks) == world and len(report.distinct) == counts["distinct"] == 32
    steps = sum(len(boundary.calls) for boundary in report.boundaries)
    assert 0 < counts["received_bytes"] <= 2 * 32 * steps and counts["pieces"] == 0


def counted(counts: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        counts[name] += 1
        return function(*args)

    return call


def test_log_probabilities_are_priced() -> None:
    """An id, whether it is one, a log-probability and a rank, then two columns of each alternative, 8 bytes each."""
    layout = resolve({"attention.tp": 2}, 2)

    def received(logprobs: int | None) -> int:
        report = explain("m", SMALL, layout, dtype="float32", logprobs=logprobs)
        (sampling,) = (passed for passed in report.boundaries if passed.name == "sampling.out")
        return sampling.calls[0].received[0].most

    assert [received(logprobs) for logprobs in (None, 0, 1, 20)] == [16, 32, 48, 352]


def test_packed_matrices_have_whole_panels() -> None:
    """Of q, k and v together, and of gate and up: 32 rows at a time."""
    storage = WeightStorage(packed=True, pads=True)
    layout = resolve({"attention.tp": 2}, 2)
    plain, filled = (
        memory_of_ranks(Shards(SMALL, layout, storage=each), 4)[0].bytes
        for each in (WeightStorage(packed=True), storage)
    )
    width, layers = SMALL.hidden_size * 4, SMALL.num_layers
    qkv, gate_up = 3 * 4 + 2 * 4, SMALL.intermediate_size  # rows of a rank: three heads, a KV head twice; half of both
    assert filled["attention"] - plain["attention"] == layers * (-qkv % 32) * width
    down = (-SMALL.hidden_size % 32) * SMALL.intermediate_size // 2 * 4
    assert filled["dense"] - plain["dense"] == layers * ((-gate_up % 32) * width + down)
    assert filled["lm_head"] - plain["lm_head"] == (-SMALL.vocab_size // 2 % 32) * width
    assert filled["embedding"] == plain["embedding"] and filled["norm"] == plain["norm"]
