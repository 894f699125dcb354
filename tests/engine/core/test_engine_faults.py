"""The simulation goes red on each of these faults; most by a wrong answer alone, without a look at private state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.core.simulation import Simulation, World
from weft.base.step.plan import DecodeRows
from weft.engine.core import admission
from weft.engine.core.kv_cache import block_hashes
from weft.engine.core.kv_cache.block_manager import BlockManager
from weft.engine.core.kv_cache.deferred_free import PendingFree
from weft.engine.core.kv_cache.kv_cache_manager import KVCacheManager
from weft.engine.core.request import Request
from weft.engine.core.scheduler.batch_rows import BatchRow, ProcessedRows, StepRows, TickQueue
from weft.engine.core.scheduler.block_growth import BlockGrowth
from weft.engine.core.scheduler.decode_batch import DecodeBatch
from weft.engine.core.scheduler.in_flight import Entry
from weft.engine.core.scheduler.scheduler import Scheduler
from weft.engine.core.scheduler.stop_tokens import StopTokenSet
from weft.engine.core.waiting_queue import WaitingQueue

WORLDS = (
    World(num_blocks=10, block_size=4, max_num_seqs=8, max_num_batched_tokens=16),
    World(num_blocks=30, block_size=2, max_num_seqs=6, max_num_batched_tokens=7, vocab=2),
    World(num_blocks=60, block_size=1, max_num_seqs=8, max_num_batched_tokens=48, vocab=50),
    World(num_blocks=100, block_size=4, max_num_batched_tokens=48, vocab=50, crowd=3, ahead=True),
    World(num_blocks=14, block_size=4, max_num_batched_tokens=48, vocab=50, crowd=4, ahead=True),
)
Patch = pytest.MonkeyPatch


def early_free(patch: Patch) -> None:
    """A block that is shared is counted once."""

    def acquire(self: BlockManager, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._idle.pop(block, None)
            self._references[block] = 1

    patch.setattr(BlockManager, "acquire", acquire)


def freed_while_running(patch: Patch) -> None:
    """The first block of a decoding request goes back when it takes another."""
    grow = Scheduler._grow_decodes

    def grow_decodes(self: Scheduler, lane: int) -> None:
        grow(self, lane)
        for request in self._decoding.values():
            if len(request.table) > 2 and self.blocks._references[request.table[0]] == 1:
                self.blocks.release(request.table[:1])
                return

    patch.setattr(Scheduler, "_grow_decodes", grow_decodes)


def collision(patch: Patch) -> None:
    """The digest of a block forgets its parent."""
    whole = block_hashes.chain_digest
    patch.setattr(block_hashes, "chain_digest", lambda parent, ids: whole(block_hashes.ROOT, ids))


def short_digest(patch: Patch) -> None:
    """The digest of a block forgets its last token."""
    whole = block_hashes.chain_digest
    patch.setattr(block_hashes, "chain_digest", lambda parent, ids: whole(parent, ids[:-1]))


def table_off_by_one(patch: Patch) -> None:
    """Rows of a later chunk, or after a cached prefix, land one position early."""
    entry = Scheduler._prefill_entry

    def replaced(self: Scheduler, request: Request, count: int) -> Entry:
        found = entry(self, request, count)
        return found._replace(run=msgspec.structs.replace(found.run, start=max(0, found.run.start - 1)))

    patch.setattr(Scheduler, "_prefill_entry", replaced)


def whole_prompt_from_cache(patch: Patch) -> None:
    """A prompt of full blocks is taken from the cache to its last token."""
    patch.setattr(KVCacheManager, "shareable", lambda self, tokens: tokens // self._limits.block_size)


def slot_given_twice(patch: Patch) -> None:
    """A slot goes back although its request still runs."""
    start = Scheduler._start

    def started(self: Scheduler, request: Request, cached: int) -> None:
        start(self, request, cached)
        if request.arrival % 5 == 0:
            self._slots.append(request.slot)

    patch.setattr(Scheduler, "_start", started)


def leak(patch: Patch) -> None:
    """A release forgets the first block of the table."""
    release = BlockManager.release
    patch.setattr(BlockManager, "release", lambda self, blocks: release(self, blocks[1:]))


def published_before_full(patch: Patch) -> None:
    """Blocks of the prompt are offered to others at admission, before they are computed."""
    start = Scheduler._start

    def started(self: Scheduler, request: Request, cached: int) -> None:
        start(self, request, cached)
        for index in range(cached, len(request.digests)):
            self.blocks.publish(request.table, index, request.digests[index])

    patch.setattr(Scheduler, "_start", started)


def displaced_without_reference(patch: Patch) -> None:
    """A table takes over another's equal block without holding it."""
    publish = BlockManager.publish

    def published(self: BlockManager, table: list[int], index: int, digest: bytes) -> int | None:
        displaced = publish(self, table, index, digest)
        if displaced is not None and self._references[table[index]] > 1:
            self._references[table[index]] -= 1
        return displaced

    patch.setattr(BlockManager, "publish", published)


def resumed_in_the_middle(patch: Patch) -> None:
    """A preempted request goes on where it was, in new blocks."""
    start = Scheduler._start

    def started(self: Scheduler, request: Request, cached: int) -> None:
        start(self, request, cached)
        if request.preemptions and request.num_uncomputed > 2:
            request.num_computed += 1
            self.queued_tokens -= 1

    patch.setattr(Scheduler, "_start", started)


def outputs_forgotten(patch: Patch) -> None:
    """A preempted request begins again with its prompt alone, as far as the ranks know."""
    record = Request.new_request

    def admit_record(request: Request) -> object:
        whole = record(request)
        return type(whole)(whole.slot, whole.prompt_ids, [], whole.params, whole.seed)

    patch.setattr(Request, "new_request", admit_record)


def roots_evicted_first(patch: Patch) -> None:
    """The most recently used idle block goes first: a root before its leaves."""

    def evict(self: BlockManager) -> int:
        block, _ = self._idle.popitem(last=True)
        self._forget(block)
        return block

    patch.setattr(BlockManager, "_evict", evict)


def oldest_preempted(patch: Patch) -> None:
    """Growing takes from the oldest."""
    depart = Scheduler._depart

    def preempt(self: Scheduler) -> None:
        request = min((*self._decoding.values(), *self._prefilling.values()), key=lambda each: each.arrival)
        depart(self, request)
        self.queued_tokens += request.num_computed
        request.num_computed, request.preemptions = 0, request.preemptions + 1
        self._waiting.push(request)

    patch.setattr(Scheduler, "_preempt_youngest", preempt)


def claims_outlive_their_owner(patch: Patch) -> None:
    """Claims of a departed request stay, and so do the requests that wait for them."""
    depart = Scheduler._depart

    def departed(self: Scheduler, request: Request) -> None:
        request.num_claimed = 0
        depart(self, request)

    patch.setattr(Scheduler, "_depart", departed)


def one_seed_for_all(patch: Patch) -> None:
    """Every output of a request has the same seed."""
    patch.setattr(admission, "output_seed", lambda user, engine, admitted, index: user or engine)


def queue_miscounted(patch: Patch) -> None:
    """Aborted requests stay in the count of waiting ones."""
    patch.setattr(WaitingQueue, "discard", lambda self, request: None)


def freed_twice(patch: Patch) -> None:
    """What was held for a step is given back once more."""
    free = Scheduler._free

    def freed(self: Scheduler, held: PendingFree) -> None:
        free(self, held)
        if held.slot == 1 and held.blocks:
            self.blocks._free.append(held.blocks[-1])

    patch.setattr(Scheduler, "_free", freed)


def last_id_dropped(patch: Patch) -> None:
    """A decoding request is synced without its last id."""
    sync = DecodeBatch.sync
    patch.setattr(DecodeBatch, "sync", lambda self, row, but=0: sync(self, row, but=1))


def displaced_untold(patch: Patch) -> None:
    """The ranks do not hear that a block of a table was replaced; its old block goes to another request."""
    patch.setattr(DecodeBatch, "mark_changed", lambda self, request: None)


def ends_overlooked(patch: Patch) -> None:
    """A request that joins while others decode is not checked for its stop ids."""
    join = DecodeBatch.join

    def joined(self: DecodeBatch, request: Request) -> None:
        known = Counter(self._stop_tokens.counts) if self._by_arrival else None
        join(self, request)
        if known is not None:
            self._stop_tokens.counts = known

    patch.setattr(DecodeBatch, "join", joined)


def ends_unseen(patch: Patch) -> None:
    """No step is looked at for ids that end a request."""
    patch.setattr(StopTokenSet, "may_be_in", lambda self, ids: False)


def length_unseen(patch: Patch) -> None:
    """A request that has reached its length is given one more row."""
    advance = BlockGrowth.advance
    patch.setattr(BlockGrowth, "advance", lambda self, tick: advance(self, tick)[:0])


def rows_of_those_who_left(patch: Patch) -> None:
    """A request that left while a step was in flight still gets that step's id."""
    process = DecodeBatch.process

    def overlooked(
        self: DecodeBatch, rows: StepRows, result: NDArray[np.int64], extras: Collection[int]
    ) -> ProcessedRows:
        return process(self, msgspec.structs.replace(rows, departures=self._departures), result, extras)

    patch.setattr(DecodeBatch, "process", overlooked)


def blocks_untold(patch: Patch) -> None:
    """Ranks do not hear of the blocks that decode rows take."""
    grow = BlockGrowth.grow

    def grown(self: BlockGrowth, batch_rows: list[BatchRow], blocks: list[int], tick: int) -> None:
        extras = self._grown[:]
        grow(self, batch_rows, blocks, tick)
        self._grown = extras

    patch.setattr(BlockGrowth, "grow", grown)


def blocks_a_step_late(patch: Patch) -> None:
    """A request is given its next block one step after it needs it."""
    take = TickQueue.take
    patch.setattr(TickQueue, "take", lambda self, tick: take(self, tick - 1))


def moved_by_one_too_few(patch: Patch) -> None:
    """Decode rows keep the position that they had in the step before."""
    plan = DecodeBatch.plan

    def planned(self: DecodeBatch, index: int) -> tuple[StepRows, DecodeRows]:
        self._moved = max(0, self._moved - (index % 7 == 0))
        return plan(self, index)

    patch.setattr(DecodeBatch, "plan", planned)


BY_ANSWER = (
    ends_unseen,
    length_unseen,
    rows_of_those_who_left,
    blocks_untold,
    blocks_a_step_late,
    moved_by_one_too_few,
    last_id_dropped,
    displaced_untold,
    ends_overlooked,
    early_free,
    freed_while_running,
    collision,
    short_digest,
    table_off_by_one,
    whole_prompt_from_cache,
    slot_given_twice,
    leak,
    published_before_full,
    displaced_without_reference,
    resumed_in_the_middle,
    outputs_forgotten,
    claims_outlive_their_owner,
    one_seed_for_all,
    freed_twice,
)
BY_STATE = (roots_evicted_first, queue_miscounted, *BY_ANSWER)


def goes_red(check_state: bool, events: int) -> bool:
    """Whether any of the worlds notices."""
    for number, world in enumerate(WORLDS):
        simulation = Simulation(world, number, check_state=check_state)
        try:
            simulation.run(events)
        except (AssertionError, ValueError, KeyError, IndexError):
            return True
    return False


@pytest.mark.parametrize("fault", BY_ANSWER, ids=lambda fault: fault.__name__)
def test_answers_show_the_fault(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)
    assert goes_red(check_state=False, events=1_500)


@pytest.mark.parametrize("fault", BY_STATE, ids=lambda fault: fault.__name__)
def test_the_state_shows_the_fault(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)
    assert goes_red(check_state=True, events=600)


def test_the_same_worlds_are_green_without_a_fault() -> None:
    assert not goes_red(check_state=True, events=1_500)
