"""YAML and JSON as documents show them: comments, '...', fragments, line numbers, variants, duplicates, broken text."""

from __future__ import annotations

import itertools
import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.tools.dialects import registry
from weft.tools.dialects.sources.documents.documents import trees
from weft.tools.dialects.sources.documents.tree import Tree, variables_in


def one(text: str) -> Tree:
    (tree,) = trees(text)
    assert tree.problem is None
    return tree


def plain(text: str) -> object:
    root = one(text).root
    assert root is not None
    return root.plain()


def codes(text: str) -> list[str]:
    return [note.code for note in one(text).notes]


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("a: 1\nb: [x, 2.5]\nc: {d: true}\n", {"a": 1, "b": ["x", 2.5], "c": {"d": True}}, []),
        (
            '{"a": 1, "b": ["x", 2.5], "c": {"d": true, "e": null}}',
            {"a": 1, "b": ["x", 2.5], "c": {"d": True, "e": None}},
            [],
        ),
        ("a: 1 # one\n# two\nb: 2\n", {"a": 1, "b": 2}, []),
        ('{\n  "a": 1, // one\n  # two\n  /* three\n */ "b": 2\n}', {"a": 1, "b": 2}, []),
        ("a: 1\n...\nb: 2\n", {"a": 1, "b": 2}, ["elided"]),
        ("a:\n  b: 1\n  ...\n  c: [1, ..., 3]\n", {"a": {"b": 1, "c": [1, 3]}}, ["elided"]),
        ('{"a": 1,\n ...\n "b": [1, ..., 3]}', {"a": 1, "b": [1, 3]}, ["elided", "elided"]),
        ('{"a": 1, "...": 2, "b": "..."}', {"a": 1, "...": 2, "b": "..."}, ["elided"]),
        ('{"a": 1\n "b": 2}', {"a": 1, "b": 2}, ["missing-comma"]),
        ('{"a": [1 2], "b": 2,}', {"a": [1, 2], "b": 2}, ["missing-comma", "trailing-comma"]),
        ('"a": {"b": 1},', {"a": {"b": 1}}, ["fragment"]),
        ('"b": 1\n} ] }', {"b": 1}, ["fragment"]),
        ("{'a': True, 'b': None, c: -1}", {"a": True, "b": None, "c": -1}, []),
        ('{"a": ${TP}, "b": <n>, "c": {{ x }}}', {"a": "${TP}", "b": "<n>", "c": "{{ x }}"}, []),
        ('{"a" = 1}', {"a": 1}, []),
        ('{"a": "x\\n\\u00e9"}', {"a": "x\n\u00e9"}, []),
        ("a:8\nb: 9\n", {"a": 8, "b": 9}, ["missing-blank"]),
        ("a:\n\tb: 1\n\tc: 2\n", {"a": {"b": 1, "c": 2}}, ["tab"]),
        ("base: &x {a: 1, b: 2}\nb:\n  <<: *x\n  b: 3\n", {"base": {"a": 1, "b": 2}, "b": {"b": 3, "a": 1}}, []),
        ("a: ${TP}\nb: {{ .Values.tp }}\n", {"a": "${TP}", "b": "${Values.tp}"}, []),
        (
            'a: "8"\nb: 010\nc: 1e3\nd: 1_000\ne: ~\nf: .5\n',
            {"a": "8", "b": 10, "c": 1000.0, "d": 1000, "e": None, "f": 0.5},
            [],
        ),
        ("{a: b c, d: [e f]}", {"a": "b c", "d": ["e f"]}, []),
        ("```yaml\na: 1\n```\n", {"a": 1}, []),
        ("cat > f.yaml << 'END'\na: 1\nEND\n", {"a": 1}, []),
        ("$ cat f.yaml\na: 1\nEOF\n", {"a": 1}, []),
        ('Put this there:\n\n{\n  "a": 1\n}\n\nand start it.\n', {"a": 1}, []),
        ('1 {\n2   "a": 1\n3 }\n', {"a": 1}, []),
        ("  8 | a: 1\n  9 | b:\n 10 |   c: 2\n", {"a": 1, "b": {"c": 2}}, []),
        ("1\n2\n3\n4\na: 1\nb: 2\n", {"a": 1, "b": 2}, []),
        ("3: [1]\n4: [2]\n5: [3]\n", {"3": [1], "4": [2], "5": [3]}, []),
    ],
)
def test_reads(text: str, value: object, found: list[str]) -> None:
    assert (plain(text), codes(text)) == (value, found)


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ('{\n "a": }', 2, 7, "a value is wanted, not '}'"),
        ('{"a": 1,\n "b" 2}', 2, 6, "':' is wanted behind 'b', not '2'"),
        ('{"a": {\n "b": 1}', 1, 1, "this { is never closed"),
        ('{"a": [1,\n 2', 1, 7, "this [ is never closed"),
        ('{"a": "x}', 1, 7, "this string is never closed"),
        ('{"a": 1}\n{"b": 2}', 2, 1, "stands behind the end of the document"),
        ('{"a": 1, : 2}', 1, 10, "a key is wanted, not ':'"),
        ("a: [1,\nb: 2\n", 3, 1, "not readable as YAML"),
        ("a: 1\n b: 2\n", 2, 3, "not readable as YAML"),
        ("a: 'x\nb: 2\n", 3, 1, "not readable as YAML"),
        ("a: &x [*x]\n", 1, 4, "an alias stands inside what it names"),
        ("? [a, b]\n: 1\n", 1, 3, "a key is a word"),
        ("a: " + "[" * 200 + "]" * 200, 1, 1, "nested more than 100 deep"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", 1, 106, "nested more than 100 deep"),
    ],
)
def test_broken_text_has_line_and_column(text: str, line: int, column: int, message: str) -> None:
    (tree,) = trees(text)
    assert tree.problem is not None and tree.problem.where is not None
    assert message in tree.problem.message
    assert (tree.problem.where.line, tree.problem.where.column) == (line, column)


def test_variants_that_comments_set_apart() -> None:
    text = "# shared\nmodel: x\n# TP-8\ntp: 8\n\n# DP-8\n# with dp\ntp: 8\ndp: true\n---\ntp: 4\n"
    found = trees(text)
    assert [(tree.name, tree.root.plain() if tree.root else None) for tree in found] == [
        ("shared", {"model": "x", "tp": 8}),
        ("with dp", {"tp": 8, "dp": True}),
        ("", {"tp": 4}),
    ]


def test_a_key_given_twice_without_a_comment_is_kept_twice() -> None:
    for text in ("a: 1\nb: 2\na: 3\n", '{"a": 1,\n"b": 2,\n"a": 3}'):
        root = one(text).root
        assert root is not None
        ((entry, (again,)),) = [(entry, entry.again) for entry in root.repeated()]
        assert (entry.where.line, entry.node.scalar, again.where.line, again.node.scalar) == (1, 1, 3, 3)


@pytest.mark.parametrize(
    ("text", "path", "line", "column", "shown"),
    [
        ("x: 1\na:\n  b: 7 # seven\n", ("a", "b"), 3, 6, "7"),
        ('{"x": 1,\n "a": {"b": 7}}', ("a", "b"), 2, 13, "7"),
        ("cat > f <<EOF\na: {b: 7}\nEOF\n", ("a", "b"), 2, 8, "7"),
        ('10 {"x": 1,\n11  "a":\n12    {"b": 7}}', ("a", "b"), 3, 13, "7"),
    ],
)
def test_places_are_those_of_the_input(text: str, path: tuple[str, ...], line: int, column: int, shown: str) -> None:
    root = one(text).root
    node = root.get(*path) if root else None
    assert node is not None and (node.where.line, node.where.column, node.where.text) == (line, column, shown)


def test_the_first_line_may_be_any() -> None:
    (tree,) = trees("a: 1\n", line=7)
    assert tree.root is not None and tree.root.where.line == 7


@pytest.mark.parametrize(
    ("value", "names"),
    [("$TP", ["TP"]), ("${TP}", ["TP"]), ("<n gpus>", ["n gpus"]), ("$A-${B}", ["A", "B"]), ("plain", []), (8, [])],
)
def test_variables(value: object, names: list[str]) -> None:
    assert list(variables_in(value)) == names


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**9), 10**9),
        st.sampled_from(["x", "a b", "8", "true", "...", "#", ""]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("abc_", min_size=1), inner, max_size=4)
    ),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(st.text("abcXY_", min_size=1), VALUES, min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(DOCUMENTS, st.sampled_from([None, 1, 2]))
def test_proper_json_is_itself(document: dict[str, object], indent: int | None) -> None:
    """'...' in quotes counts as something left out, so it is kept out here."""
    text = json.dumps(document, indent=indent)
    if '"..."' not in text:
        assert (plain(text), codes(text)) == (document, [])


@settings(max_examples=200, deadline=None)
@given(DOCUMENTS, st.booleans())
def test_proper_yaml_is_itself(document: dict[str, object], flow: bool) -> None:
    text = yaml.safe_dump(document, default_flow_style=None if flow else False)
    if "..." not in text:
        assert (plain(text), codes(text)) == (document, [])


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab:{}[],'\" \n#-.$<>1\t&*!|?"), max_size=60))
def test_no_text_breaks_it(text: str) -> None:
    for tree in trees(text):
        assert tree.problem is None or tree.problem.where is not None


DOUBLED = "a: &a x\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefgh"))
"""A short text of 9 ** 7 values."""
MAPPED = "a: &a x\n" + "".join(
    f"{b}: &{b} {{{', '.join(f'k{at}: *{a}' for at in range(9))}}}\n" for a, b in itertools.pairwise("abcdefgh")
)


@pytest.mark.parametrize("text", [DOUBLED, MAPPED, "a: &a {b: *a}\n", "a: &a [[*a]]\n"], ids=len)
def test_aliases_without_end_are_a_mistake_of_the_file(text: str) -> None:
    (reading,) = registry.read(f"{text}tensor_parallel_size: 2\n", "trtllm")
    assert reading.refused is not None and "alias" in reading.refused.message
    command = "vllm serve x -tp 2 --config c.yaml"
    pod = f"kind: Pod\n{text}spec: {{containers: [{{image: vllm}}]}}"
    for written in (f"cat > c.yaml <<'E'\n{text}E\n{command}", pod):
        (reading,) = registry.read(written, "vllm")
        assert reading.refused is not None and "alias" in reading.refused.message


def test_aliases_that_are_read_once_more_are_not() -> None:
    items = ", ".join(map(str, range(50_000)))
    (reading,) = registry.read(f"a: &a [{items}]\nb: *a\ntensor_parallel_size: 2\n", "trtllm")
    assert reading.refused is None and reading.layout is not None


@pytest.mark.parametrize("text", ["- a", "words"])
def test_a_config_file_that_is_no_mapping_is_refused(text: str) -> None:
    (reading,) = registry.read(f"cat > c.yaml <<'E'\n{text}\nE\nvllm serve x -tp 2 --config c.yaml", "vllm")
    assert reading.refused is not None and "no mapping" in reading.refused.message
