"""Layout documents: round trip, schema against loader, and the errors of a broken document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from weft.base.errors import LayoutError
from weft.parallel.layout import resolve
from weft.parallel.layout.layout import layout_settings
from weft.parallel.layout.serialize import flatten, json_schema, load_given, to_dict, to_yaml

FULL = """
nodes: 1                                     # so that 'within: node' can be checked
replicas: 1
pipeline: {stages: 1, layers: null}
attention: {tp: 2, dp: 4, cp: 1, kv_split: 1}
o_proj:    {tp: 8, within: null}
dense:     {tp: 8}
experts:   {tp: 1, ep: 8, slots: 288, dispatch: auto, balance: {policy: global, interval: 1000}}
shared_experts: {tp: 1}
embedding: {tp: 8}
lm_head:   {tp: 4, within: node}
"""
VALIDATOR = Draft202012Validator(json_schema())


def test_every_field_of_the_record_can_be_written() -> None:
    values = load_given(FULL)
    layout = resolve(values, num_experts=256)
    assert layout.experts is not None and layout.experts.balance.policy == "global"
    assert (layout.lm_head.tp, layout.lm_head.within, layout.world) == (4, "node", 8)
    left_out = {setting.name for setting in layout_settings()} - set(values)
    assert left_out == {"pipeline.layers", "attention.split", "o_proj.within"}


@pytest.mark.parametrize(
    ("values", "world", "experts"),
    [
        ({}, 1, 0),
        ({"attention.tp": 2, "dense.tp": 8, "o_proj.within": "node"}, 8, 0),
        ({"pipeline.layers": [3, 2], "replicas": 2, "attention.cp": 2}, 16, 0),
        ({"experts.slots": 72, "experts.balance.policy": "hierarchical"}, 8, 64),
    ],
)
def test_round_trip(values: dict[str, object], world: int, experts: int) -> None:
    layout = resolve(values, world, num_experts=experts)
    for text in (to_yaml(layout), json.dumps(to_dict(layout)), json.dumps(to_dict(layout), indent="\t")):
        assert resolve(load_given(text), num_experts=experts) == layout
    assert resolve(flatten(to_dict(layout)), num_experts=experts) == layout
    VALIDATOR.validate(to_dict(layout))


def test_yaml_marks_what_was_derived() -> None:
    lines = to_yaml(resolve({"attention.tp": 2, "lm_head.tp": 4}, 8)).splitlines()
    assert lines[0] == "world: 8"
    assert "attention: {tp: 2, dp: 4, cp: 1, kv_split: 1, split: groups}  # derived: dp, cp, kv_split, split" in lines
    assert "dense: {tp: 2}  # derived: tp" in lines
    assert "lm_head: {tp: 4, within: null}  # derived: within" in lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attention:\n  tp: 2\nlm_hed: {tp: 2}", "layout, line 3: unknown key lm_hed; did you mean lm_head?"),
        ("dense:\n  tpp: 3", "layout, line 2: unknown key dense.tpp; did you mean tp?"),
        ("attention.tp: 2", "layout, line 1: unknown key attention.tp; did you mean attention?"),
        (
            "attention:\n  tp: 2\n  dp: 1\n  tp: 3",
            "layout, line 4: attention.tp is given twice, in line 2 and in line 4",
        ),
        ("dense: {}\n\ndense: {}", "layout, line 3: dense is given twice, in line 1 and in line 3"),
        ('{"dense": {"tp": 1},\n "dense": {"tp": 1}}', "layout, line 2: dense is given twice, in line 1 and in line 2"),
        ("attention: 3", "layout, line 1: attention is a mapping of names to values, not '3'"),
        ("dense: {tp: two}", "layout, line 1: dense.tp: two is not a whole number, at least 1"),
        ("dense:\n  tp: '2'", "layout, line 2: dense.tp: '2' is not a whole number, at least 1"),
        ("dense: {tp: 1.5}", "layout, line 1: dense.tp: 1.5 is not a whole number, at least 1"),
        ("dense: {tp: true}", "layout, line 1: dense.tp: True is not a whole number, at least 1"),
        ("dense: {tp: [1]}", "layout, line 1: dense.tp: [1] is not a whole number, at least 1"),
        ("dense: {tp: {a: 1}}", "layout, line 1: a mapping where a value is wanted"),
        (f"dense: {{tp: {'9' * 5000}}}", f"layout, line 1: '{'9' * 40}' cannot be read"),
        ("o_proj: {within: rack}", "layout, line 1: o_proj.within: rack is not one of node"),
        ("pipeline: {layers: []}", "layout, line 1: pipeline.layers: [] is not a list of whole numbers, at least 1"),
        ("pipeline: {layers: [[1]]}", "layout, line 1: a list inside a list or a mapping inside a list"),
        ("world: many", "layout, line 1: world: many is not a whole number, at least 1"),
        ("world: 0", "layout, line 1: world: 0 is out of range; legal: at least 1"),
        ("- 1", "layout, line 1: a layout is a mapping of names to values, not a list"),
        ("x" * 99, f"layout, line 1: a layout is a mapping of names to values, not '{'x' * 40}...'"),
        ("? [a, b]\n: 1", "layout, line 1: unknown key a list"),
        ("&a {attention: *a}", "layout, line 1: unknown key attention.attention"),
    ],
)
def test_broken_documents(text: str, message: str) -> None:
    with pytest.raises(LayoutError) as caught:
        load_given(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["a: [", "a: 'b", "\x00", "{a: 1}}", "a: *b", "%YAML 9\n---\na", "{" * 3000])
def test_what_is_no_yaml_is_one_clear_error(text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        load_given(text)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("layout")


@pytest.mark.parametrize("text", ["", "# nothing", "null", "{}", "dense: null", "dense: {tp: ~}"])
def test_empty_documents_give_nothing(text: str) -> None:
    assert load_given(text) == {}


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "layout.yaml"
    file.write_text("dense: {tp: 2}")
    assert load_given(file) == {"dense.tp": 2}
    file.write_text("dense: {tp: x}")
    with pytest.raises(LayoutError, match=r"layout\.yaml, line 1: dense\.tp"):
        load_given(file)
    with pytest.raises(LayoutError, match="No such file"):
        load_given(tmp_path / "none.yaml")
    with pytest.raises(LayoutError, match="Is a directory"):
        load_given(tmp_path)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LayoutError, match="not UTF-8 text"):
        load_given(file)


def test_flatten_takes_both_forms_and_leaves_unknown_names_to_resolve() -> None:
    assert flatten({"attention": {"tp": 2}, "dense.tp": 4}) == {"attention.tp": 2, "dense.tp": 4}
    with pytest.raises(LayoutError, match="unknown layout field denze.tp; did you mean dense.tp"):
        resolve(flatten({"denze": {"tp": 2}}))
    with pytest.raises(LayoutError, match="unknown layout field attention"):
        resolve(flatten({"attention": 2}))


SECTIONS = sorted({name.rpartition(".")[0] for name in (setting.name for setting in layout_settings())} - {""})
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats(-4, 9, allow_nan=False)
    | st.sampled_from(["node", "groups", "auto", "none", "global", "x", ""])
)
VALUES = SCALARS | st.lists(st.integers(0, 4) | st.sampled_from([2.0, 2.5, None]), max_size=3)
NAMES = st.sampled_from(["tp", "dp", "ep", "slots", "within", "split", "layers", "stages", "dispatch", "policy", "tpp"])
INNER = st.dictionaries(NAMES, VALUES, max_size=3)
BALANCED = st.builds(lambda inner, balance: {**inner, "balance": balance}, INNER, VALUES | INNER)
DOCUMENTS = VALUES | st.dictionaries(
    st.sampled_from([*SECTIONS, "nodes", "replicas", "world", "wrld"]), VALUES | INNER | BALANCED, max_size=4
)


@settings(max_examples=400, deadline=None)
@given(DOCUMENTS)
def test_schema_and_loader_accept_the_same_documents(document: object) -> None:
    try:
        load_given(json.dumps(document))
        loaded = True
    except LayoutError:
        loaded = False
    assert VALIDATOR.is_valid(document) == loaded, document


def test_the_schema_names_every_field_and_is_valid() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    for setting in layout_settings():
        inner: object = schema
        for part in setting.name.split("."):
            assert isinstance(inner, dict)
            inner = inner["properties"][part]
        assert isinstance(inner, dict) and inner["description"]
