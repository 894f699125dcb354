"""Preparing one target while the next is read: what comes out, in what order, and what an error costs."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.support.waiting import PATIENCE_S
from weft.compute.ops.weights import FileBlocks, Weight
from weft.model.layers import Prepare
from weft.model.weights import preparing
from weft.model.weights.filling import Filling
from weft.model.weights.preparing import Preparing


class Doubling:
    """A `Prepare` that waits for an event."""

    def __init__(self) -> None:
        self.go_on, self.seen = threading.Event(), list[str]()

    def __call__(self, name: str, weight: Tensor, peaks: Tensor | None = None) -> Weight:
        assert self.go_on.wait(PATIENCE_S)
        self.seen.append(name)
        if name == "bad":
            raise ValueError(name)
        return weight * 2 if peaks is None else weight * peaks

    def blocks(self, name: str, weight: FileBlocks) -> Weight:
        self.seen.append(name)
        return weight.raw + 1


class Returned:
    """A `Filling` that notes what it is given back."""

    def __init__(self) -> None:
        self.targets: list[str] = []

    def take_back(self, target: str, whole: Tensor, made: Weight) -> None:
        self.targets.append(target)


def made(prepare: Doubling | None) -> tuple[Preparing, Returned, dict[str, Weight]]:
    params: dict[str, Weight] = {}
    filling = Returned()
    return Preparing(cast(Prepare | None, prepare), cast(Filling, filling), params), filling, params


def test_what_is_given_is_prepared_while_the_next_is_read() -> None:
    prepare = Doubling()
    work, filling, params = made(prepare)
    with work:
        work.give("a", torch.ones(2))
        assert not prepare.seen and not filling.targets, "it waits, and whoever gave it does not"
        prepare.go_on.set()
        work.give("b", torch.ones(2), torch.tensor([3.0, 4.0]))
        assert filling.targets == ["a"], "the memory of the first may be filled again"
        work.give("c", FileBlocks(torch.zeros(1, 18, dtype=torch.uint8), "Q4_0", 32))
    assert prepare.seen == ["a", "b", "c"] and filling.targets == ["a", "b"]
    found: dict[str, Any] = {name: cast(Tensor, made).tolist() for name, made in params.items()}
    assert found == {"a": [2, 2], "b": [3, 4], "c": [[1] * 18]}


def test_what_is_large_is_done_before_more_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "SPARE_BYTES", 7)
    prepare = Doubling()
    prepare.go_on.set()
    work, filling, _ = made(prepare)
    with work:
        work.give("large", torch.ones(2))
        assert prepare.seen == filling.targets == ["large"]


def test_what_lies_on_a_device_is_prepared_in_the_thread_that_chose_it() -> None:
    prepare = Doubling()
    prepare.go_on.set()
    work, _, params = made(prepare)
    with work:
        work.give("a", torch.ones(2, device="meta"))
        assert prepare.seen == ["a"] and set(params) == {"a"}


@pytest.mark.parametrize("last", [True, False])
def test_an_error_is_raised_once_and_nothing_is_prepared_behind_it(last: bool) -> None:
    prepare = Doubling()
    prepare.go_on.set()
    work, _, params = made(prepare)
    with pytest.raises(ValueError, match="bad"), work:
        work.give("bad", torch.ones(2))
        if not last:
            work.give("next", torch.ones(2))
    assert prepare.seen == ["bad"] and not params


def test_an_error_of_the_reader_waits_for_what_was_begun() -> None:
    prepare = Doubling()
    work, _, params = made(prepare)
    with pytest.raises(RuntimeError, match="file"), work:
        work.give("a", torch.ones(2))
        prepare.go_on.set()
        raise RuntimeError("file")
    assert prepare.seen == ["a"] and not params


def test_nothing_to_prepare() -> None:
    work, _, params = made(None)
    whole = torch.ones(2)
    with work:
        work.give("a", whole)
        assert params["a"] is whole
