"""The multiset of stop ids against a set that is checked one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from weft.engine.core.scheduler.stop_tokens import StopTokenSet

IDS = st.frozensets(st.sampled_from((-1, 0, 1, 2, 7, 40, 151_643, 1 << 20, (1 << 20) + 5, 1 << 40)), max_size=4)


@given(st.lists(IDS, max_size=8), st.data())
def test_a_step_that_gave_one_is_never_overlooked(owners: list[frozenset[int]], data: st.DataObject) -> None:
    ends = StopTokenSet()
    for owner in owners:
        ends.add(owner)
    gone = owners[: data.draw(st.integers(0, 2))]
    for owner in gone:
        ends.remove(owner)
    left = Counter(token for owner in owners for token in owner) - Counter(token for owner in gone for token in owner)
    assert set(ends.counts) == set(left)
    given_ids = data.draw(st.lists(st.sampled_from((0, 1, 2, 3, 7, 39, 40, 41, 151_643, 151_644)), max_size=6))
    found = ends.may_be_in(np.array(given_ids, np.int64))
    assert found or not set(given_ids) & set(left)
    if found and not any(token < 0 for token in left):  # which are no ids, and count as the first
        assert set(given_ids) & set(left)


def test_ids_beyond_all_vocabularies_take_no_memory() -> None:
    ends = StopTokenSet()
    ends.add((1 << 62,))
    assert ends.may_be_in(np.array([1 << 62, 3])) and not ends.may_be_in(np.array([3]))
    assert not StopTokenSet().may_be_in(np.array([0, 1, 2]))
