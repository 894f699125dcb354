"""The record and its resolution: defaults, the world's product, legal sizes, and one-line refusals."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.base.errors import LayoutError
from weft.parallel.layout import Layout, refuse_unsupported, resolve
from weft.parallel.layout.counts import MOST_RANKS, divisors

DENSE = ("embedding", "o_proj", "dense", "lm_head")


def refusal(values: dict[str, object], world: int | None = None, tp: int | None = None, experts: int = 0) -> str:
    with pytest.raises(LayoutError) as caught:
        resolve(values, world, tp, num_experts=experts)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_nothing_given_is_one_rank() -> None:
    layout = resolve({})
    assert (layout.world, layout.stage_size) == (1, 1)
    assert set(layout.sizes.values()) == {1}
    assert layout.experts is None and layout.shared_experts is None


def test_modules_take_attentions_size() -> None:
    layout = resolve({"attention.tp": 2, "lm_head.tp": 4}, 8)
    assert layout.sizes == {"embedding": 2, "attention": 2, "o_proj": 2, "dense": 2, "lm_head": 4}
    assert layout.attention.dp == 4
    assert {"attention.dp", "o_proj.tp", "dense.tp", "embedding.tp"} <= layout.derived
    assert not {"attention.tp", "lm_head.tp"} & layout.derived


def test_tp_is_the_default_of_every_module_and_explicit_sizes_win() -> None:
    layout = resolve({"dense.tp": 4, "embedding.tp": 1}, 4, tp=2)
    assert layout.sizes == {"embedding": 1, "attention": 2, "o_proj": 2, "dense": 4, "lm_head": 2}
    assert layout.attention.dp == 2


def test_tp_with_attention_tp_is_refused() -> None:
    text = refusal({"attention.tp": 2}, tp=2)
    assert "--tensor-parallel-size" in text and "--attn-tp-size" in text


@pytest.mark.parametrize(
    ("values", "world", "text"),
    [
        (
            {"attention.tp": 2, "attention.dp": 4},
            6,
            "attention tp 2 x cp 1 x dp 4 x stages 1 x replicas 1 = 8, but --world-size is 6",
        ),
        (
            {"attention.tp": 4},
            6,
            "attention tp 4 x cp 1 x stages 1 x replicas 1 = 4, which does not divide --world-size 6; "
            "legal attention tp: 1, 2, 3, 6",
        ),
        ({"lm_head.tp": 3}, 8, "lm_head tp 3: the layout has 8 ranks; legal: 1, 2, 4, 8"),
        (
            {"attention.tp": 4, "attention.kv_split": 3},
            None,
            "attention kv_split 3: attention has tp 4; legal: 1, 2, 4",
        ),
        (
            {"o_proj.tp": 4, "o_proj.within": "node", "nodes": 4},
            8,
            "o_proj tp 4: within node: a node has 2 ranks; legal: 1, 2",
        ),
        ({"nodes": 3}, 8, "nodes 3: the world has 8 ranks; legal: 1, 2, 4, 8"),
        (
            {"pipeline.stages": 2, "pipeline.layers": (1, 2, 3)},
            None,
            "pipeline layers 1, 2, 3: 3 numbers for 2 pipeline stages; give one for each stage",
        ),
        ({"lm_hed.tp": 3}, None, "unknown layout field lm_hed.tp; did you mean lm_head.tp?"),
        ({"lm_head.tp": "two"}, None, "lm_head.tp: two is not a whole number, at least 1"),
        ({"lm_head.tp": True}, None, "lm_head.tp: True is not a whole number, at least 1"),
        ({"lm_head.tp": 0}, None, "lm_head.tp: 0 is out of range; legal: at least 1"),
        ({"lm_head.within": "rack"}, None, "lm_head.within: rack is not one of node"),
        ({"experts.tp": 2}, 2, "experts.tp 2: the model has no experts; leave it out"),
        ({"world": 4}, 2, "world 4 in the layout, but --world-size is 2"),
        ({"world": 0}, None, "world: 0 is out of range; legal: at least 1"),
        ({}, 0, "--world-size: 0 is out of range; legal: at least 1"),
    ],
)
def test_refusals(values: dict[str, object], world: int | None, text: str) -> None:
    assert refusal(values, world) == text


def test_too_large_for_the_stage_says_how_to_get_a_larger_one() -> None:
    assert refusal({"dense.tp": 4}, tp=2).endswith("legal: 1, 2 (more ranks: --attn-dp-size or --world-size)")


def test_errors_carry_field_value_and_legal_sizes() -> None:
    with pytest.raises(LayoutError) as caught:
        resolve({"lm_head.tp": 3}, 8)
    assert (caught.value.field, caught.value.value, caught.value.legal) == ("lm_head.tp", 3, (1, 2, 4, 8))


def test_null_means_not_given() -> None:
    assert resolve({"dense.tp": None, "attention.tp": 2}) == resolve({"attention.tp": 2})


def test_stages_follow_from_layers() -> None:
    layout = resolve({"pipeline.layers": [16, 15, 15]}, 6)
    assert (layout.pipeline.stages, layout.attention.dp, layout.stage_size) == (3, 2, 2)


def test_world_in_the_document_is_the_world() -> None:
    assert resolve({"world": 6, "attention.tp": 3}) == resolve({"attention.tp": 3}, 6)


def experts_of(values: dict[str, object], world: int, tp: int | None = None, count: int = 64) -> tuple[int, int, int]:
    experts = resolve(values, world, tp, num_experts=count).experts
    assert experts is not None
    return experts.tp, experts.ep, experts.slots


@pytest.mark.parametrize(
    ("values", "tp", "wanted"),
    [
        ({}, None, (1, 8, 64)),
        ({"experts.tp": 2}, None, (2, 4, 64)),
        ({"experts.ep": 4}, None, (1, 4, 64)),
        ({"experts.slots": 72}, None, (1, 8, 72)),
        ({}, 8, (8, 1, 64)),
        ({"experts.ep": 8}, 8, (1, 8, 64)),
        ({"experts.ep": 4}, 8, (2, 4, 64)),
        ({"experts.tp": 4}, 8, (4, 2, 64)),
    ],
)
def test_defaults_of_experts(values: dict[str, object], tp: int | None, wanted: tuple[int, int, int]) -> None:
    assert experts_of(values, 8, tp) == wanted


def test_impossible_experts() -> None:
    assert refusal({"experts.tp": 3, "experts.ep": 2}, 8, experts=64) == (
        "experts tp * ep 6: the layout has 8 ranks; legal: 1, 2, 4, 8"
    )
    assert refusal({"experts.slots": 65}, 8, experts=64) == (
        "experts slots 65: the model has 64 experts and ep is 8; legal: 64, 72, 80, 88, ..."
    )
    assert refusal({"experts.slots": 62}, 8, experts=60).endswith("legal: 64, 72, 80, 88, ...")
    assert refusal({}, 8, experts=6) == (
        "experts ep 8: the model has 6 experts with a slot each; legal: at most 6, or experts slots 8, 16, ..."
    )
    assert refusal({"experts.ep": 8, "experts.slots": 7}, 8, experts=6).endswith("legal: 8, 16, 24, 32, ...")
    assert experts_of({}, 8, count=60) == (1, 8, 60)


@pytest.mark.parametrize("mode", ["deepep", "deepep_normal", "deepep_low_latency"])
@pytest.mark.parametrize("installed", [False, True])
def test_deepep_is_refused_with_what_is_missing(mode: str, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = resolve({"experts.dispatch": mode}, 2, num_experts=8)
    monkeypatch.setattr("weft.parallel.layout.support.find_spec", lambda name: object() if installed else None)
    with pytest.raises(LayoutError) as caught:
        refuse_unsupported(layout)
    missing = "weft has no adapter for it" if installed else "deep_ep is not importable"
    assert f"experts.dispatch {mode}: " in str(caught.value) and missing in str(caught.value)
    assert caught.value.field == "experts.dispatch" and caught.value.value == mode
    assert caught.value.legal == ("auto", "all_gather", "all_to_all")


def test_ranks_that_share_a_context_are_served() -> None:
    for values in ({"attention.cp": 2}, {"attention.tp": 2, "attention.kv_split": 2}):
        refuse_unsupported(resolve(values))


def every_dense_layout(world: int) -> list[Layout]:
    found = []
    for tp in divisors(world):
        for sizes in ((a, b, c, d) for a in range(1, 9) for b in range(1, 9) for c in range(1, 9) for d in range(1, 9)):
            values = {"attention.tp": tp} | {f"{module}.tp": n for module, n in zip(DENSE, sizes, strict=True)}
            try:
                found.append(resolve(values, world))
            except LayoutError as error:
                assert any(world % size for size in sizes), error
    return found


@pytest.mark.parametrize(("world", "count"), [(1, 1), (2, 32), (3, 32), (4, 243)])
def test_all_dense_layouts_of_small_worlds_and_no_others_are_legal(world: int, count: int) -> None:
    layouts = every_dense_layout(world)
    assert len(layouts) == len(set(layouts)) == count
    for layout in layouts:
        refuse_unsupported(layout)
        assert layout.world == world


SIZE = st.integers(1, 8)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "nodes",
                "replicas",
                "pipeline.stages",
                "attention.tp",
                "attention.dp",
                "attention.cp",
                "attention.kv_split",
                *(f"{module}.tp" for module in DENSE),
            ]
        ),
        SIZE,
    ),
    st.none() | st.integers(1, 48),
)
def test_what_is_resolved_keeps_every_rule_and_every_given_value(values: dict[str, object], world: int | None) -> None:
    try:
        layout = resolve(values, world)
    except LayoutError as error:
        assert "\n" not in str(error)
        if len(error.legal) > 1 and error.field in values:
            better = [choice for choice in error.legal if choice != values[error.field]]
            assert better, error
        return
    assert world in (None, layout.world)
    assert layout.world % layout.nodes == 0 == layout.attention.tp % layout.attention.kv_split
    assert all(layout.stage_size % size == 0 for size in layout.sizes.values())
    for name, value in values.items():
        record, _, leaf = name.rpartition(".")
        assert getattr(getattr(layout, record) if record else layout, leaf) == value
        assert name not in layout.derived


@pytest.mark.parametrize(
    ("values", "sizes", "field"),
    [
        ({}, {"world_size": MOST_RANKS + 1}, "--world-size"),
        ({}, {"tp": 10**40}, "--tp"),
        ({"attention.dp": 10**11}, {}, "world"),
        ({"world": 10**40}, {}, "world"),
        ({"attention.dp": 2**15, "replicas": 2**15}, {}, "world"),
    ],
)
def test_more_ranks_than_a_layout_may_have_are_refused_at_once(
    values: dict[str, object], sizes: dict[str, int], field: str
) -> None:
    with pytest.raises(LayoutError, match="more than the 1048576 ranks") as refused:
        resolve(values, **sizes)
    assert refused.value.field == field


@given(st.integers(1, 5000))
def test_divisors_are_all_that_divide(number: int) -> None:
    assert divisors(number) == tuple(size for size in range(1, number + 1) if number % size == 0)
