"""Bodies in which one value is another: what a client with a mistake in it sends."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

ODD: tuple[Any, ...] = (
    None, 0, -1, 2**70, 1.5, True, "", "x", "auto", "required", "\x00", "é" * 50, [], {}, [[]], [None], {"a": None},
    {"type": "function"}, {"type": "text"}, {"$ref": "#"}, {"not": {}}, {"pattern": "("}, {"properties": []}, "a b",
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every value inside."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*at, key)
        yield from places(value[key], (*at, key))


def with_another(body: Any, place: tuple[Any, ...], value: Any, left_out: bool) -> Any:
    """The body with `value` there, or with nothing."""
    made = copy.deepcopy(body)
    inside: Any = made
    for key in place[:-1]:
        inside = inside[key]
    if left_out:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return made


def odd_bodies(body: Any) -> st.SearchStrategy[Any]:
    """One or two values of `body` are others."""
    one = st.tuples(st.sampled_from([*places(body)]), st.sampled_from(ODD), st.booleans())
    return one.map(lambda change: with_another(body, *change))


LONG = "Q" * 3000


def long_bodies(body: Any) -> Iterator[Any]:
    """In each, one value or one more key is LONG."""
    yield body | {LONG: LONG}
    for place in places(body):
        yield with_another(body, place, LONG, left_out=False)
        yield with_another(body, place, {LONG: LONG}, left_out=False)
        yield with_another(body, place, [LONG], left_out=False)


def check_errors_are_short(post: Callable[[Any], Any], body: Any) -> None:
    """An error repeats at most 80 characters of a value."""
    refused = [answer.text for changed in long_bodies(body) if (answer := post(changed)).status_code >= 400]
    assert len(refused) > 20, refused
    long = [re.sub("(Q{80})Q+", r"\1..", text) for text in refused if LONG[:81] in text]
    assert not long, "\n".join(long)
