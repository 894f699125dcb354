"""BlockManager: states of a block, sharing, eviction from the leaves, displacement, withdrawal."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft.engine.core.kv_cache.block_manager import BlockManager


def chain(*names: str) -> list[bytes]:
    """Digests of a chain: each name stands for a block's tokens."""
    return ["/".join(names[: end + 1]).encode() for end in range(len(names))]


def filled(manager: BlockManager, *names: str) -> list[int]:
    """A table whose blocks are computed and published, sharing what is there."""
    digests = chain(*names)
    cached = manager.match(digests, len(digests))
    manager.acquire(cached)
    table = cached + manager.allocate(len(digests) - len(cached))
    for index in range(len(cached), len(table)):
        manager.publish(table, index, digests[index])
    return table


def test_blocks_are_numbered_from_one() -> None:
    manager = BlockManager(3)
    assert sorted(manager.allocate(3)) == [1, 2, 3]
    assert manager.num_available == 0


def test_more_than_there_is_cannot_be_allocated() -> None:
    manager = BlockManager(2)
    with pytest.raises(ValueError, match="3 blocks asked for, 2 available"):
        manager.allocate(3)
    assert manager.num_available == 2


def test_a_published_block_outlives_its_holder_and_an_unpublished_one_does_not() -> None:
    manager = BlockManager(4)
    table = filled(manager, "a", "b") + manager.allocate(1)
    manager.release(table)
    assert (manager.num_available, manager.num_idle) == (4, 2)
    assert manager.match(chain("a", "b", "c"), 3) == table[:2]


def test_matching_stops_at_the_limit_and_at_the_first_gap() -> None:
    manager = BlockManager(4)
    table = filled(manager, "a", "b", "c")
    assert manager.match(chain("a", "b", "c"), 2) == table[:2]
    assert manager.match(chain("a", "x", "c"), 3) == table[:1]
    assert manager.match(chain("b"), 1) == []


def test_a_shared_block_is_available_after_its_last_holder() -> None:
    manager = BlockManager(4)
    first, second = filled(manager, "a", "b"), filled(manager, "a", "c")
    assert first[0] == second[0]
    manager.release(first)
    assert manager.num_available == 4 - 2
    manager.release(second)
    assert manager.num_available == 4


def test_matched_idle_blocks_count_as_taken() -> None:
    manager = BlockManager(3)
    manager.release(filled(manager, "a", "b"))
    held = filled(manager, "a")
    assert manager.count_idle(manager.match(chain("a", "b"), 2)) == 1
    manager.release(held)
    assert manager.count_idle(manager.match(chain("a", "b"), 2)) == 2


def test_the_least_recently_used_leaf_goes_first() -> None:
    manager = BlockManager(5)
    manager.release(filled(manager, "a", "b", "c"))
    manager.release(filled(manager, "x", "y"))
    manager.release(filled(manager, "a", "b", "c"))  # used again: x/y is older now
    taken = manager.allocate(1)
    assert manager.match(chain("x", "y"), 2) == manager.match(chain("x"), 1) != []
    taken += manager.allocate(2)
    assert manager.match(chain("x"), 1) == []
    assert len(manager.match(chain("a", "b", "c"), 3)) == 2
    manager.release(taken)


def test_unpublished_free_blocks_are_used_before_cached_ones() -> None:
    manager = BlockManager(3)
    manager.release(filled(manager, "a"))
    manager.release(manager.allocate(2))
    manager.allocate(2)
    assert len(manager.match(chain("a"), 1)) == 1


def test_an_equal_block_displaces_the_later_one() -> None:
    manager = BlockManager(4)
    first = filled(manager, "a")
    second = manager.allocate(1)
    displaced = manager.publish(second, 0, chain("a")[0])
    assert displaced is not None and displaced != first[0] and second == first
    assert manager.num_available == 2
    manager.release([displaced])
    manager.release(first)
    assert manager.num_available == 3
    manager.release(second)
    assert (manager.num_available, manager.num_idle) == (4, 1)


def test_publishing_twice_changes_nothing() -> None:
    manager = BlockManager(2)
    table = filled(manager, "a")
    assert manager.publish(table, 0, chain("a")[0]) is None
    manager.release(table)
    assert (manager.num_available, manager.num_idle) == (2, 1)


def test_a_block_behind_an_unpublished_one_stays_private() -> None:
    manager = BlockManager(2)
    table = manager.allocate(2)
    assert manager.publish(table, 1, chain("a", "b")[1]) is None
    manager.release(table)
    assert manager.num_idle == 0


def test_withdrawn_blocks_and_all_that_follow_them_are_never_matched_again() -> None:
    manager = BlockManager(8)
    bad, child, other = filled(manager, "a", "b"), filled(manager, "a", "b", "c", "d"), filled(manager, "a", "x")
    manager.release(other)
    manager.withdraw(bad[1:])
    assert manager.match(chain("a", "b", "c", "d"), 4) == bad[:1]
    assert manager.match(chain("a", "x"), 2) == other
    grown = child + manager.allocate(1)
    assert manager.publish(grown, 4, chain("a", "b", "c", "d", "e")[4]) is None
    manager.release(bad)
    manager.release(grown)
    assert (manager.num_available, manager.num_idle) == (8, 2)
    assert sorted(manager.allocate(8)) == list(range(1, 9))


def test_withdrawing_idle_blocks_frees_them() -> None:
    manager = BlockManager(3)
    table = filled(manager, "a", "b", "c")
    manager.release(table)
    manager.withdraw(table[:1])
    assert (manager.num_available, manager.num_idle) == (3, 0)


class Tables(RuleBasedStateMachine):
    """Any order of sharing, growing and letting go of tables, against a model that copies every table's content."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(12)
        self.tables: list[tuple[list[int], tuple[str, ...]]] = []
        self.contents: dict[int, tuple[str, ...]] = {}

    @rule(names=st.lists(st.sampled_from("ab"), min_size=1, max_size=5))
    def open(self, names: list[str]) -> None:
        digests = chain(*names)
        cached = self.manager.match(digests, len(digests))
        fresh = len(digests) - len(cached)
        if fresh + self.manager.count_idle(cached) > self.manager.num_available:
            return
        self.manager.acquire(cached)
        table = cached + self.manager.allocate(fresh)
        for index in range(len(cached), len(table)):
            self.contents[table[index]] = tuple(names[: index + 1])
        for index in range(len(cached), len(table)):
            assert self.manager.publish(table, index, digests[index]) is None
        self.tables.append((table, tuple(names)))

    @rule(names=st.lists(st.sampled_from("ab"), min_size=1, max_size=5), data=st.data())
    def open_without_looking(self, names: list[str], data: st.DataObject) -> None:
        """As two requests that computed the same at once."""
        if len(names) > self.manager.num_available:
            return
        digests, table = chain(*names), self.manager.allocate(len(names))
        for index, block in enumerate(table):
            self.contents[block] = tuple(names[: index + 1])
        for index, digest in enumerate(digests):
            displaced = self.manager.publish(table, index, digest)
            if displaced is not None:
                self.manager.release([displaced])
        self.tables.append((table, tuple(names)))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        table, _ = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.manager.release(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        table, names = data.draw(st.sampled_from(self.tables))
        self.manager.withdraw(table[-1:])
        assert table[-1] not in self.manager.match(chain(*names), len(names))

    @invariant()
    def every_table_holds_its_content(self) -> None:
        for table, names in self.tables:
            assert [self.contents[block] for block in table] == [names[: end + 1] for end in range(len(names))]

    @invariant()
    def what_is_matched_has_the_right_content(self) -> None:
        for names in ("aaa", "aba", "bab", "bbb"):
            matched = self.manager.match(chain(*names), 3)
            assert [self.contents[block] for block in matched] == [tuple(names[: i + 1]) for i in range(len(matched))]

    @invariant()
    def nothing_is_lost(self) -> None:
        held = {block for table, _ in self.tables for block in table}
        assert self.manager.num_available == 12 - len(held)


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
