"""Random schemas whose documents are short, and what answers to them must be."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

NAMES = st.sampled_from(["a", "b", "name", "age", 'q"\\', "ü"])
SCALARS = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.integers(-50, 50).map(lambda low: {"type": "integer", "minimum": low, "maximum": low + 12}),
    st.integers(0, 4).map(lambda most: {"type": "string", "maxLength": most}),
    st.lists(st.sampled_from(["x", "ja", "\n", 1, None, [1, {}]]), min_size=1, max_size=3, unique_by=repr).map(
        lambda values: {"enum": values}
    ),
    st.just({"type": "string", "pattern": "^[a-c]{1,3}$"}),
    st.just({"type": "string", "format": "date"}),
)


def _objects(values: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(NAMES, values, max_size=3).flatmap(
        lambda properties: st.sets(st.sampled_from(sorted(properties)) if properties else st.nothing()).map(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": sorted(required),
                "additionalProperties": False,
            }
        )
    )


def _arrays(values: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(values, st.integers(0, 2), st.integers(0, 1)).map(
        lambda given: {"type": "array", "items": given[0], "minItems": given[1], "maxItems": given[1] + given[2]}
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda values: st.one_of(
        _objects(values), _arrays(values), st.lists(values, min_size=1, max_size=3).map(lambda each: {"anyOf": each})
    ),
    max_leaves=5,
)


def check_document(text: str, schema: dict[str, Any]) -> None:
    """AssertionError: `text` is no JSON, or not what `schema` asks for."""
    document = json.loads(text)
    error = next(Draft202012Validator(schema).iter_errors(document), None)
    assert error is None, f"{text} of {schema}: {error}"
