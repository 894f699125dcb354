"""Scheduler: which rows one attention-dp group runs in the next step, and what follows from the sampled ids.

A step is `schedule`, then `retire` with the sampled ids. With async scheduling the next step is scheduled before that,
where `make_room_ahead` finds blocks for it. Its rows take tokens that are not known yet, and are dropped if one of
these ends their request. Blocks and slots of a request that leaves while a step in flight refers to it are freed when
that step retires.
"""

from __future__ import annotations

from collections import deque

from weft.base.step.plan import GroupPlan, GroupResult, NewRequest, Sampled, ScheduledRequest
from weft.engine.core.kv_cache.block_manager import BlockManager
from weft.engine.core.kv_cache.deferred_free import DeferredFree, PendingFree
from weft.engine.core.kv_cache.kv_cache_manager import KVCacheManager
from weft.engine.core.limits import Limits
from weft.engine.core.outputs import Counters, GroupStats, Outputs, RequestOutput
from weft.engine.core.request import Request
from weft.engine.core.results import group_stats
from weft.engine.core.scheduler.compiling import Compiling
from weft.engine.core.scheduler.decode_lanes import DecodeLanes
from weft.engine.core.scheduler.in_flight import Entry, InFlightStep, scored_rows
from weft.engine.core.scheduler.output_processor import OutputProcessor
from weft.engine.core.scheduler.prefill_throttle import PrefillThrottle
from weft.engine.core.scheduler.token_budget import TokenBudget
from weft.engine.core.waiting_queue import WaitingQueue


class Scheduler:
    """Decode rows first, then prefills that run already, then new requests, all within one step's tokens.

    A request is admitted with blocks for every token it has; decoding takes a block when it needs one. When none is
    left the youngest running request is preempted: its blocks go, its tokens stay, it is computed again later.
    """

    def __init__(self, limits: Limits, throttle: PrefillThrottle | None = None, lanes: int = 1) -> None:
        """`lanes`: decode batches that take turns."""
        self.limits = limits
        self.throttle = throttle or PrefillThrottle(0.0)
        self.blocks = BlockManager(limits.num_blocks)
        self.counters = Counters()
        self.queued_tokens = 0
        """Known tokens that are not computed yet, of all requests of the group."""
        self._waiting = WaitingQueue()
        self.compiling = Compiling(self._waiting)
        self._prefilling: dict[int, Request] = {}
        self._decoding: dict[int, Request] = {}
        self._slots = list(range(limits.max_num_seqs - 1, -1, -1))
        self._in_flight: deque[InFlightStep] = deque()
        self._deferred_free = DeferredFree(self._free)
        self.kv_cache = KVCacheManager(limits, self.blocks, self._waiting, self._deferred_free)
        self._lanes = DecodeLanes(lanes, limits.max_num_seqs, limits.block_size)
        self._output_processor = OutputProcessor(self.blocks, self.counters, self.remove)

    @property
    def has_work(self) -> bool:
        """Whether a step would have something to run."""
        return bool(self._decoding or self._prefilling or self._waiting)

    @property
    def num_running(self) -> int:
        """Requests with a slot."""
        return len(self._decoding) + len(self._prefilling)

    def in_flight(self) -> set[str]:
        """Ids of the requests in steps that have not retired."""
        return set[str]().union(*(step.requests() for step in self._in_flight))

    def add(self, request: Request) -> None:
        """Adds a request to the waiting queue."""
        self.queued_tokens += request.num_uncomputed
        self.counters.prompt_tokens += request.num_prompt if request.index == 0 else 0
        request.queued_step = self._deferred_free.retired
        self.compiling.queue(request)

    def remove(self, request: Request) -> None:
        """Ends a request in any state; its blocks are free now, or when the steps in flight have retired."""
        request.done = True
        self.queued_tokens -= request.num_uncomputed
        self.counters.finished += 1
        if request.slot >= 0:
            self._depart(request)
        elif not request.paused and not self.compiling.discard(request):
            self._waiting.discard(request)

    def pause(self, request: Request) -> None:
        """Frees slot and blocks of a request that decodes, until `resume`; its tokens stay."""
        if request.arrival in self._decoding:
            self._set_back(request)
            request.paused = True

    def resume(self, request: Request) -> None:
        """Puts a paused request back into the waiting queue, at its old place."""
        if request.paused:
            request.paused = False
            self.compiling.queue(request)

    def make_room_ahead(self, lane: int = 0) -> bool:
        """Whether there are blocks for a step of `lane` while others are in flight. With several lanes requests are
        preempted for it, and other lanes go on until their blocks are free; with one, when nothing is in flight."""
        if len(self._lanes.batches) > 1:
            self.make_room(lane, ahead=True)
        return self._lanes.batches[lane].num_needing_blocks <= self.blocks.num_available

    def decodes(self, lane: int) -> bool:
        """Whether a step of `lane` scheduled now would have decode rows."""
        return self._lanes.batches[lane].num_rows > 0

    def has_rows(self, lane: int = 0) -> bool:
        """Whether a step of `lane` scheduled now would certainly have rows."""
        running = self.decodes(lane) or any(each.num_unplanned > 0 for each in self._prefilling.values())
        return running or (len(self._lanes.batches) > 1 and self._admissible() is not None)

    def balance(self) -> None:
        """Before a step: lanes get as many rows as each other."""
        self._lanes.balance(self._deferred_free.retired)

    def schedule(self, index: int, lane: int = 0) -> GroupPlan:
        """The group's part of step `index`, with the decode rows of `lane`; without rows if there is nothing to do."""
        self._grow_decodes(lane)
        rows, decodes = self._lanes.batches[lane].plan(index)
        entries, new_requests = list[Entry](), list[NewRequest]()
        if self._prefilling or self._waiting:
            entries, new_requests = self._prompts(rows.count)
        for request, _, run in entries:
            request.last_step = index
            if run.sample and request.has_next_token:
                self._lanes.join(request, lane, index)
        self.counters.computed_tokens += rows.count + sum([entry.run.count for entry in entries])
        self._in_flight.append(InFlightStep(index, rows, entries, lane))
        return GroupPlan(new_requests, [entry.run for entry in entries], decodes)

    def retire(self, index: int, result: GroupResult) -> Outputs:
        """Processes the results of the oldest step in flight, which must be `index`."""
        step = self._in_flight.popleft()
        step.check(index, result)
        decodes = self._output_processor.process_decodes(self._lanes.batches[step.lane], step.rows, result)
        found = [self._take(*pair) for pair in step.pairs(result)] if step.entries else []
        self._deferred_free.retire(index)
        self._lanes.retire(index)
        return Outputs((decodes, [output for output in found if output is not None]) if found else (decodes,))

    def stats(self) -> GroupStats:
        """The group at this moment."""
        return group_stats(self.counters, self.blocks, self.num_running, len(self._waiting) + len(self.compiling))

    # -- rows of a step

    def _prompts(self, decodes: int) -> tuple[list[Entry], list[NewRequest]]:
        """Rows of prompts beside `decodes` decode rows, and the requests that are admitted for them."""
        entries, new_requests = list[Entry](), list[NewRequest]()
        budget = TokenBudget.of(self.limits, decodes, self.throttle)
        for request in self._prefilling.values():
            if request.num_unplanned > 0:
                entries += self._prefill(request, budget)
        while budget.is_left and (admitted := self._admit(budget)):
            new_requests.append(admitted.new_request())
            entries += self._prefill(admitted, budget)
        return entries, new_requests

    def _prefill(self, request: Request, budget: TokenBudget) -> list[Entry]:
        """As many of the request's prompt rows as the budget allows: one entry, or none."""
        before = request.num_planned
        if not (count := budget.most(request.scores, self._late(request), before)):
            return []
        entry = self._prefill_entry(request, self.limits.whole_chunk(before, count, request.num_unplanned))
        budget.take(entry.run.count, scored_rows(entry), before)
        return [entry]

    def _prefill_entry(self, request: Request, count: int) -> Entry:
        return Entry(request, request.admission, request.prompt_run(count))

    def _late(self, request: Request) -> bool:
        """Whether any request decoded before this one arrived; `_decoding` is in the order of first tokens."""
        oldest = next(iter(self._decoding.values()), None)
        return oldest is not None and oldest.decoding_since < request.queued_step

    def make_room(self, lane: int, *, ahead: bool = False) -> None:
        """Preempts while too few blocks are free for the next positions of `lane`, or, with `ahead`, will be when steps
        in flight have retired. Never the oldest request: admission has checked that it fits into the whole pool."""
        batch = self._lanes.batches[lane]
        while self.num_running > 1:
            soon = self._deferred_free.num_blocks if ahead else 0
            if batch.num_needing_blocks <= self.blocks.num_available + soon:
                break
            self._preempt_youngest()

    def _grow_decodes(self, lane: int) -> None:
        """Allocates the block of the next position for every decoding request of `lane` that needs one."""
        self.make_room(lane)
        if needing := (batch := self._lanes.batches[lane]).take_needing_blocks():
            batch.grow(needing, self.blocks.allocate(len(needing)))

    # -- admission and departure

    def _admit(self, budget: TokenBudget) -> Request | None:
        """Admits the oldest request that does not wait for another's prefix: a slot, blocks for all its tokens, and
        rows of `budget`. None: there is no such request, or no room for it."""
        found = self._admissible()
        if found is None:
            return None
        request, cached, fresh = found
        before = len(cached) * self.limits.block_size
        if not budget.most(request.scores, self._late(request), before):
            return None
        self._waiting.pop()
        self.blocks.acquire(cached)
        request.table = cached + self.blocks.allocate(fresh)
        self._start(request, len(cached))
        return request

    def _admissible(self) -> tuple[Request, list[int], int] | None:
        """The next request, its cached blocks and how many more it needs; None: no request, slot or blocks for it."""
        if (head := self.kv_cache.next_waiting() if self._slots else None) is None:
            return None
        request, cached = head
        fresh = self.limits.blocks_for(len(request.token_ids)) - len(cached)
        # One block is reserved for each running request, so that the new one is not preempted at once.
        room = fresh + self.blocks.count_idle(cached) + self.num_running <= self.blocks.num_available
        return (request, cached, fresh) if room else None

    def _start(self, request: Request, cached: int) -> None:
        tokens = cached * self.limits.block_size
        request.slot, request.num_computed, request.num_known = self._slots.pop(), tokens, 0
        request.num_published = cached
        request.admission += 1
        request.num_claimed = len(request.digests)
        self._waiting.claim(request, request.digests[cached:])
        self._prefilling[request.arrival] = request
        self.queued_tokens -= tokens
        self.counters.queried_tokens += len(request.token_ids)
        self.counters.cached_tokens += tokens
        if request.preemptions == 0:
            request.begin(tokens)

    def _preempt_youngest(self) -> None:
        request = max((*self._decoding.values(), *self._prefilling.values()), key=lambda each: each.place)
        self._set_back(request)
        request.preemptions += 1
        self.counters.preemptions += 1
        self.compiling.queue(request)

    def _set_back(self, request: Request) -> None:
        self._depart(request)
        self.queued_tokens += request.num_computed
        request.num_computed = 0
        if request.scores:
            request.prompt_logprobs = []

    def _depart(self, request: Request) -> None:
        """Frees slot and blocks of a running request; full blocks are published in the prefix cache first."""
        self._lanes.leave(request)
        self.kv_cache.publish(request)
        self._decoding.pop(request.arrival, None)
        self._prefilling.pop(request.arrival, None)
        computed = request.num_computed // self.limits.block_size
        self._waiting.end_claim(request, request.digests[computed : request.num_claimed])
        self._deferred_free.free(PendingFree(request.last_step, request.table, request.slot))
        request.slot, request.table, request.num_claimed = -1, [], 0
        request.num_in_flight = request.num_sampling = 0
        request.admission += 1

    def _free(self, pending: PendingFree) -> None:
        self.blocks.release(pending.blocks)
        if pending.slot >= 0:
            self._slots.append(pending.slot)

    # -- results

    def _take(self, request: Request, run: ScheduledRequest, result: Sampled | None) -> RequestOutput | None:
        """Processes one prompt run: publishes its blocks, and appends its sampled id to the request."""
        request.step_done(run)
        if result is not None and result.error is not None:
            return self._output_processor.fail(request, result.error)
        request.num_computed += run.count
        self.queued_tokens -= run.count
        if self.kv_cache.publish(request):
            self._lanes.mark_changed(request)
        if result is None:
            return None
        request.prompt_logprobs += result.prompt
        if not run.sample:
            return None
        del self._prefilling[request.arrival]
        self._decoding[request.arrival] = request
        request.decoding_since = self._deferred_free.retired + 1
        request.token_ids.append(result.token_id)
        self.queued_tokens += 1
        self.counters.generated_tokens += 1
        return self._output_processor.process_token(request, result)
