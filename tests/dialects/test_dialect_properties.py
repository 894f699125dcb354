"""What holds for every dialect, whatever the text: a layout or a refusal; and what is written reads back."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_texts import TEXTS

from tests.support.dialects import check_shape, check_written, layouts
from weft.dialects import registry
from weft.layout import Layout

ANY_TEXT = settings(suppress_health_check=list(HealthCheck))
NAMES = pytest.mark.parametrize("name", registry.NAMES)


def check_text(name: str, text: str) -> None:
    for reading in registry.read(text, name):
        check_shape(reading)


@NAMES
@settings(ANY_TEXT, max_examples=400)
@given(data=st.data())
def test_anything_gives_a_layout_or_a_refusal(name: str, data: st.DataObject) -> None:
    check_text(name, data.draw(TEXTS[name]))


@pytest.mark.long
@NAMES
@settings(ANY_TEXT, max_examples=10_000)
@given(data=st.data())
def test_ten_thousand_inputs(name: str, data: st.DataObject) -> None:
    check_text(name, data.draw(st.one_of(TEXTS[name], st.text())))


@NAMES
@settings(max_examples=150)
@given(layout=layouts())
def test_what_is_written_reads_back(name: str, layout: Layout) -> None:
    check_written(layout, name, 0 if layout.experts is None else layout.experts.slots)
