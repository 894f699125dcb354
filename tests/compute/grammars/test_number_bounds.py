"""Bounds of numbers: nothing outside them is written, and the usual spellings of what is inside are."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compute.grammars.test_json_schema import accepts, compiled
from weft.base.errors import RequestError
from weft.compute.grammars.number_bounds import BOUNDS, EXACT, MOST

SIDES = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
WHOLE = st.integers(-12, 12) | st.sampled_from([0, 99, 100, -100, 2**53, -(2**53) - 1, 10**17, 10**22, -(10**30)])
VALUES = WHOLE | st.builds(lambda whole, part: round(whole + part, 4), WHOLE, st.sampled_from([0.5, 0.25, 0.75, 0.001]))
MORE = VALUES | st.sampled_from([1e-7, -3e-20, 0.1 + 0.2, -0.0, 1.5e300, 123456789.123456])


def within(number: Decimal, bounds: dict[str, Any]) -> bool:
    held = {
        "minimum": lambda bound: number >= bound, "exclusiveMinimum": lambda bound: number > bound,
        "maximum": lambda bound: number <= bound, "exclusiveMaximum": lambda bound: number < bound,
    }  # fmt: skip
    return all(held[name](Decimal(repr(value))) for name, value in bounds.items())


def spelled(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@st.composite
def bounds_and_numbers(draw: st.DrawFn) -> tuple[dict[str, Any], list[Decimal]]:
    bounds = {name: draw(MORE) for names in SIDES for name in names if draw(st.booleans())}
    if len(bounds) > 1 and draw(st.booleans()):  # both in one whole part
        first, *_, last = bounds
        bounds[last] = bounds[first] + draw(st.sampled_from([0.5, 0.75, 0.001, 0, -0.5, 1, -1]))
    near = [Decimal(repr(value)) for value in bounds.values()] + [Decimal(0)]
    steps = st.builds(lambda digits, places: Decimal(digits).scaleb(-places), st.integers(-99, 99), st.integers(0, 9))
    return bounds, [base + draw(steps) for base in near for _ in range(3)] + near


@settings(max_examples=250, deadline=None)
@given(bounds_and_numbers(), st.sampled_from(["number", "integer", None, ["number", "null"]]))
def test_no_number_outside_the_bounds_is_written(drawn: tuple[dict[str, Any], list[Decimal]], kind: Any) -> None:
    bounds, numbers = drawn
    schema = {**bounds, **({} if kind is None else {"type": kind})}
    try:
        grammar = compiled(schema)
    except RequestError:
        return
    for number in numbers:
        for text in {spelled(number), f"{spelled(number)}.0" if number == int(number) else f"{number:f}0"}:
            assert within(number, bounds) or not accepts(grammar, text), (schema, text)
        assert kind != "integer" or number == int(number) or not accepts(grammar, spelled(number))


@settings(max_examples=100, deadline=None)
@given(st.integers(-50, 50), st.integers(-50, 50), st.booleans(), st.booleans())
def test_whole_numbers_and_halves_inside_the_bounds_are_written(low: int, high: int, left: bool, right: bool) -> None:
    low, high = sorted((low, high))
    bounds = {SIDES[0][left]: low, SIDES[1][right]: high}
    numbers = [Decimal(half) / 2 for half in range(2 * low - 2, 2 * high + 3)]
    if not any(within(number, bounds) for number in numbers):
        with pytest.raises(RequestError, match="no document"):
            compiled({"type": "number", **bounds})
        return
    grammar = compiled({"type": "number", **bounds})
    for number in numbers:
        assert accepts(grammar, spelled(number)) == within(number, bounds), (bounds, number)


def test_bounds_beyond_64_bits_and_those_of_draft_4() -> None:
    grammar = compiled({"type": "integer", "maximum": 10**30, "minimum": -(10**30)})
    assert accepts(grammar, "7") and accepts(grammar, str(MOST)) and not accepts(grammar, str(10 * MOST))
    assert accepts(compiled({"type": "integer", "maximum": int(EXACT)}), str(EXACT))
    with pytest.raises(RequestError, match="'minimum' at '/'"):
        compiled({"type": "number", "minimum": 1e30})
    assert compiled({"type": "number", "minimum": 1e30}, strict=False).left_out == ("minimum at /",)
    draft4 = compiled({"type": "number", "minimum": 3, "exclusiveMinimum": True, "exclusiveMaximum": False})
    assert not accepts(draft4, "3") and accepts(draft4, "3.5")
    given: tuple[Any, ...] = ("5", None, [], float("nan"))
    for wrong in given:
        for name in sorted(BOUNDS):
            with pytest.raises(RequestError, match=name):
                compiled({"type": "number", name: wrong})
