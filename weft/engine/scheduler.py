"""Scheduler: which rows one attention-dp group runs in the next step, and what follows from the sampled ids.

Knows tokens, blocks and slots of its own group; no tensor, no other group, no text. A step is `schedule`, then
`retire` with the sampled ids; the next may be scheduled before that where `can_go_ahead` says so. Its rows then take
tokens that are not known yet, and are for nothing where one of these ends its request. Blocks and slots of a request
that leaves while a step that refers to it is in flight are held back until that step retires.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from weft.engine.block_manager import BlockManager
from weft.engine.flight import Entry, Flight, Held, HeldBack, flowing, scored_rows
from weft.engine.limits import Limits
from weft.engine.outputs import Counters, FinishReason, GroupStats, RequestOutput
from weft.engine.pace import Pace
from weft.engine.prefix import extend_digests
from weft.engine.request import Request
from weft.engine.results import finish_after, group_stats, output_of
from weft.engine.room import Room
from weft.engine.waiting import WaitingQueue
from weft.errors import WeftError
from weft.step.plan import FEWEST_SCORED, Admit, GroupPlan, GroupResult, Run, Sampled, Streams


class Scheduler:
    """Decode rows first, then prefills that run already, then new requests, all within one step's tokens.

    A request is admitted with blocks for every token it has; decoding takes a block when it needs one. When none is
    left the youngest running request is preempted: its blocks go, its tokens stay, it is computed again later.
    """

    def __init__(self, limits: Limits, pace: Pace | None = None) -> None:
        self.limits = limits
        self.pace = pace or Pace(0.0)
        self.blocks = BlockManager(limits.num_blocks)
        self.counters = Counters()
        self.queued_tokens = 0
        """Known tokens that are not computed yet, over all requests of the group."""
        self._waiting = WaitingQueue()
        self._prefilling: dict[int, Request] = {}
        self._decoding: dict[int, Request] = {}
        self._slots = list(range(limits.max_num_seqs - 1, -1, -1))
        self._in_flight: deque[Flight] = deque()
        self._held = HeldBack(self._give_back)

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
        return {request.request_id for flight in self._in_flight for request, _, _ in flight.entries}

    def cached_prefix(self, digests: Sequence[bytes], num_tokens: int) -> int:
        """How many of a new request's tokens the prefix cache holds."""
        return len(self.blocks.match(digests, self._sharable(num_tokens))) * self.limits.block_size

    def add(self, request: Request) -> None:
        """Puts a request in line."""
        self.queued_tokens += request.num_uncomputed
        self.counters.prompt_tokens += request.num_prompt if request.index == 0 else 0
        request.queued_step = self._held.retired
        self._waiting.push(request)

    def remove(self, request: Request) -> None:
        """Ends a request in whatever state it is; its blocks are free now, or when the step in flight has retired."""
        request.done = True
        self.queued_tokens -= request.num_uncomputed
        self.counters.finished += 1
        if request.slot >= 0:
            self._depart(request)
        elif not request.paused:
            self._waiting.discard(request)

    def pause(self, request: Request) -> None:
        """Takes a request that has answered something out of its slot and blocks until `resume`; its tokens stay."""
        if request.arrival in self._decoding:
            self._set_back(request)
            request.paused = True

    def resume(self, request: Request) -> None:
        """Puts a paused request in line, at its old place."""
        if request.paused:
            request.paused = False
            self._waiting.push(request)

    @property
    def can_go_ahead(self) -> bool:
        """Whether a step may be scheduled while others fly: nobody must be preempted, for blocks come back later."""
        return len(self._needy()) <= self.blocks.num_available

    @property
    def has_rows(self) -> bool:
        """Whether a step scheduled now has rows for certain, whatever the cache has room for."""
        return bool(self._flowing()) or any(each.num_unplanned > 0 for each in self._prefilling.values())

    def schedule(self, index: int) -> GroupPlan:
        """The group's part of step `index`; without runs when there is nothing to do."""
        self._grow_decodes()
        entries = [(each, each.admission, each.run([], 1, True)) for each in self._flowing()]
        budget = self.limits.max_num_batched_tokens - len(entries)
        rows = Room(budget, max(FEWEST_SCORED, self.limits.max_num_seqs - len(entries)), self.pace.prompt_rows())
        for request in self._prefilling.values():
            if request.num_unplanned > 0:
                entries += self._prefill(request, rows)
        admits: list[Admit] = []
        while rows.any and (newcomer := self._admit(rows)):
            admits.append(newcomer.admit())
            entries += self._prefill(newcomer, rows)
        for request, _, _ in entries:
            request.last_step = index
        self.counters.computed_tokens += self.limits.max_num_batched_tokens - rows.budget
        runs, flow = [run for _, _, run in entries], sum(not run.ids for _, _, run in entries)
        self._in_flight.append(Flight(index, entries, GroupPlan(admits, runs[flow:], Streams.of(runs[:flow]))))
        return self._in_flight[-1].plan

    def retire(self, index: int, result: GroupResult) -> list[RequestOutput]:
        """Takes in the results of the oldest step in flight, which is `index`."""
        sampled = result.every((flight := self._in_flight.popleft()).plan)
        expected = [run.slot for _, _, run in flight.entries if run.sample or run.targets]
        if flight.index != index or [result.slot for result in sampled] != expected:
            raise WeftError(f"results of step {index} are not those of step {flight.index}, slots {expected}")
        results, outputs = iter(sampled), []
        for request, admission, run in flight.entries:
            record = next(results) if run.sample or run.targets else None
            if request.admission == admission and (output := self._take(request, run, record)):
                outputs.append(output)
        self._held.retire(index)
        return outputs

    def stats(self) -> GroupStats:
        """The group at this moment."""
        return group_stats(self.counters, self.blocks, self.num_running, len(self._waiting))

    # -- rows of a step

    def _prefill(self, request: Request, rows: Room) -> list[Entry]:
        """As many of the request's prompt rows as the step has room for: one entry, or none."""
        if not (count := rows.room(request.scores, self._late(request))):
            return []
        entry = self._prefill_entry(request, count)
        rows.take(entry[2].count, scored_rows(entry))
        return [entry]

    def _prefill_entry(self, request: Request, budget: int) -> Entry:
        start, count = request.num_planned, min(request.num_unplanned, budget)
        ids, sample = request.token_ids[start : start + count], count == request.num_unplanned
        targets = request.token_ids[start + 1 : start + count + 1] if request.scores else []
        return request, request.admission, request.run(ids, count, sample, targets)

    def _late(self, request: Request) -> bool:
        """Whether a stream flowed before the request came. Streams are in the order in which they began to flow."""
        oldest = next(iter(self._decoding.values()), None)
        return oldest is not None and oldest.flows_since < request.queued_step

    def _grow_decodes(self) -> None:
        """Gives every decoding request the block of its next position, or preempts until the rest have theirs.

        The oldest is never preempted: alone it has the whole pool, and admission saw to it that it fits.
        """
        for request in self._needy():
            while request.slot >= 0 and not self.blocks.num_available and self.num_running > 1:
                self._preempt_youngest()
            if request.slot >= 0:
                request.table += self.blocks.allocate(1)

    def _flowing(self) -> list[Request]:
        return flowing(self._decoding.values(), self._prefilling.values())

    def _needy(self) -> list[Request]:
        """Who flows on, and whose next position lies in no block yet."""
        size = self.limits.block_size
        return [each for each in self._flowing() if each.num_planned == len(each.table) * size]

    # -- admission and departure

    def _admit(self, rows: Room) -> Request | None:
        """Gives the oldest waiting request that waits for no other's prefix a slot and all its blocks, if rows fit."""
        if (head := self._next_waiting() if self._slots else None) is None:
            return None
        request, cached = head
        if not rows.room(request.scores, self._late(request)):
            return None
        fresh = self.limits.blocks_for(len(request.token_ids)) - len(cached)
        # One block of growth is left to each running request, so that the newcomer is not preempted at once.
        if fresh + self.blocks.count_idle(cached) + self.num_running > self.blocks.num_available:
            return None
        self._waiting.pop()
        self.blocks.acquire(cached)
        request.table = cached + self.blocks.allocate(fresh)
        self._start(request, len(cached))
        return request

    def _next_waiting(self) -> tuple[Request, list[int]] | None:
        while (request := self._waiting.head()) is not None:
            limit = 0 if request.scores else self._sharable(len(request.token_ids))
            cached = self.blocks.match(request.digests, limit)
            claimed = self._waiting.last_claimed(request.digests, len(cached), limit)
            if claimed is None:
                return request, cached
            self._waiting.park(claimed)
        return None

    def _start(self, request: Request, cached: int) -> None:
        tokens = cached * self.limits.block_size
        request.slot, request.num_computed, request.told = self._slots.pop(), tokens, 0
        request.admission += 1
        request.claimed = len(request.digests)
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
        self._waiting.push(request)

    def _set_back(self, request: Request) -> None:
        self._depart(request)
        self.queued_tokens += request.num_computed
        request.num_computed = 0
        if request.scores:
            request.prompt_logprobs = []

    def _depart(self, request: Request) -> None:
        """Takes a running request out of its slot and blocks."""
        self._decoding.pop(request.arrival, None)
        self._prefilling.pop(request.arrival, None)
        computed = request.num_computed // self.limits.block_size
        self._waiting.end_claim(request, request.digests[computed : request.claimed])
        self._held.hold(Held(request.last_step, request.table, request.slot))
        request.slot, request.table, request.claimed = -1, [], 0
        request.num_flying = request.num_drawn = 0
        request.admission += 1

    def _give_back(self, held: Held) -> None:
        self.blocks.release(held.blocks)
        if held.slot >= 0:
            self._slots.append(held.slot)

    # -- results

    def _take(self, request: Request, run: Run, result: Sampled | None) -> RequestOutput | None:
        """One run's result: what it computed becomes known to the cache, its sampled id to the request."""
        request.landed(run)
        if result is not None and result.error is not None:
            # What a failed request read or wrote must not reach another one through the cache.
            self.blocks.withdraw(request.table)
            self.remove(request)
            return output_of(request, finish=FinishReason.ERROR, error=result.error)
        self._computed(request, run.count)
        if result is None:
            return None
        request.prompt_logprobs += result.prompt
        if not run.sample:
            return None
        if self._prefilling.pop(request.arrival, None):
            self._decoding[request.arrival] = request
            request.flows_since = self._held.retired + 1
        request.token_ids.append(result.token_id)
        self.queued_tokens += 1
        self.counters.generated_tokens += 1
        finish, reason = finish_after(request)
        if finish:
            self.remove(request)
        return output_of(request, result, finish=finish, stop_reason=reason)

    def _computed(self, request: Request, count: int) -> None:
        first = request.num_computed // self.limits.block_size
        request.num_computed += count
        self.queued_tokens -= count
        full = request.num_computed // self.limits.block_size
        if full == first or not self.limits.enable_prefix_caching:
            return
        extend_digests(request.digests, request.token_ids, full, self.limits.block_size, request.params.cache_salt)
        for index in range(first, full):
            displaced = self.blocks.publish(request.table, index, request.digests[index])
            if displaced is not None:
                request.told = min(request.told, index)
                self._held.hold(Held(request.last_step, [displaced]))
        self._waiting.end_claim(request, request.digests[first : min(full, request.claimed)])

    def _sharable(self, num_tokens: int) -> int:
        """Full blocks that may come from the cache: the last token is always computed, for its logits."""
        return (num_tokens - 1) // self.limits.block_size
