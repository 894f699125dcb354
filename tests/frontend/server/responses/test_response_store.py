"""The store's bounds, against a list that is searched."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.base.errors import RequestError
from weft.frontend.server.responses.store import ResponseStore


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Plain:
    """The same by the words of the rule: the last used is at the end."""

    kept: list[tuple[str, int, float]] = field(default_factory=list)

    def put(self, id: str, size: int, now: float) -> None:
        self.kept = [one for one in self.kept if now - one[2] <= 100] + [(id, size, now)]
        while len(self.kept) > 3 or sum(size for _, size, _ in self.kept) > 1000:
            self.kept.pop(0)

    def get(self, id: str, now: float) -> bool:
        found = [one for one in self.kept if one[0] == id and now - one[2] <= 100]
        self.kept = [one for one in self.kept if one not in found] + found
        return bool(found)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 1200)),
        st.tuples(st.just("get"), st.integers(0, 12)),
        st.tuples(st.just("wait"), st.integers(1, 60)),
    ),
    max_size=40,
)


@given(size=st.integers(1, 400), most=st.integers(400, 2000))
def test_one_response_takes_an_eighth_at_most(size: int, most: int) -> None:
    store = ResponseStore(3, most)
    items = [{"text": "x" * size}]
    if len(msgspec.json.encode(items)) * 8 <= most:
        store.check(items)
    else:
        with pytest.raises(RequestError, match="'store': false"):
            store.check(items)


@given(actions=ACTIONS)
def test_bounds(actions: list[tuple[str, int]]) -> None:
    clock, plain, made = Clock(), Plain(), 0
    store = ResponseStore(3, 1000, 100.0, clock)
    for action, number in actions:
        if action == "put":
            store.put(f"r{made}", b"x" * number, [], [])
            plain.put(f"r{made}", number + len("[[],[]]"), clock.now)
            made += 1
        elif action == "wait":
            clock.now += number
        else:
            there = plain.get(f"r{number}", clock.now)
            if there:
                store.get(f"r{number}")
            else:
                with pytest.raises(RequestError) as refused:
                    store.get(f"r{number}")
                assert refused.value.status == 404
        assert store.bytes <= 1000 and len(store) <= 3
