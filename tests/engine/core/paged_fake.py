"""A fake of all ranks: its KV cache holds, per position, a hash of the token and of what lies before it, as keys and
values do; a sampled id is a hash of all positions read through the block table.

So a wrong table, a block freed too early, a false prefix hit or a position off by one changes an answer. It also
checks what a plan promises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec

from tests.support.fakes.uncounted import Uncounted
from weft.base.errors import PeerError
from weft.base.settings import EngineConfig
from weft.base.step.plan import (
    GroupPlan,
    GroupResult,
    NewRequest,
    Sampled,
    ScheduledRequest,
    StepPlan,
    StepResult,
    TokenLogprob,
)
from weft.base.step.sampling_params import SamplingParams

EMPTY = -1
EOS = (0,)


def cell_of(before: int, token: int) -> int:
    """What the cache holds of a token that follows the position with cell `before`."""
    return hash((before, token))


def next_token(cells: Sequence[int], seed: int, vocab: int) -> int:
    """The model: a change of any earlier token changes it with probability 1 - 1/vocab."""
    return hash((seed, *cells)) % vocab


def reference(
    prompt: Sequence[int], seed: int, params: SamplingParams, eos: Iterable[int], max_len: int, vocab: int
) -> tuple[list[int], str, int | None]:
    """(output ids, finish reason, stop reason) of a request that has the machine to itself."""
    cells, eos_ids = [EMPTY], set() if params.ignore_eos else set(eos)
    outputs: list[int] = []
    for token in prompt:
        cells.append(cell_of(cells[-1], token))
    while True:
        outputs.append(next_token(cells[1:], seed, vocab))
        cells.append(cell_of(cells[-1], outputs[-1]))
        if len(outputs) >= params.min_tokens and outputs[-1] in eos_ids:
            return outputs, "stop", None
        if len(outputs) >= params.min_tokens and outputs[-1] in params.stop_token_ids:
            return outputs, "stop", outputs[-1]
        if len(prompt) + len(outputs) >= max_len or len(outputs) == params.max_tokens:
            return outputs, "length", None


@dataclass
class SlotState:
    """What a rank keeps of the request in a slot."""

    admit: NewRequest
    last_id: int | None = None
    sampled_in: int = -1
    """The step that sampled `last_id`."""
    sampled: int = 0
    end: int | None = None
    table: list[int] = field(default_factory=list)

    def with_table(self, run: ScheduledRequest) -> ScheduledRequest:
        """The run with the whole table of its slot."""
        assert run.known <= len(self.table), "a table with a hole"
        if run.blocks:
            self.table = self.table[: run.known] + run.blocks
        return msgspec.structs.replace(run, blocks=self.table, known=0)


@dataclass
class GroupMemory:
    """One attention-dp group's cache and slots."""

    cells: list[int]
    slots: dict[int, SlotState] = field(default_factory=dict)


class PagedFake(Uncounted):
    """An Executor. `poison` maps the seed of a
    request to the output whose logits are not finite; `fail_at` is the step at which a rank dies."""

    def __init__(
        self,
        config: EngineConfig,
        num_blocks: int,
        dp: int = 1,
        vocab: int = 1000,
        stages: int = 1,
    ) -> None:
        pipeline, attention = SimpleNamespace(stages=stages), SimpleNamespace(dp=dp, cp=1)
        self.layout: Any = SimpleNamespace(attention=attention, pipeline=pipeline, kv_owners=1)
        self.index = self.awaits = 0
        """Of the plan that runs."""
        self.num_blocks = num_blocks
        self.config, self.vocab = config, vocab
        self.groups = [GroupMemory([EMPTY] * ((num_blocks + 1) * config.tokens_per_block)) for _ in range(dp)]
        self.computed_rows = [0] * dp
        self.plans: list[bytes] | None = None
        """Set to a list to keep every plan as it was sent."""
        self.poison: dict[int, int] = {}
        self.fail_at: int | None = None
        self.steps = self.most_in_flight = 0

    def step(self, plan: StepPlan) -> StepResult:
        return self._step(plan)

    def _step(self, plan: StepPlan) -> StepResult:
        assert plan.index == self.steps, f"step {plan.index} after {self.steps - 1}"
        assert len(plan.groups) == len(self.groups)
        assert any(group.num_rows for group in plan.groups), "a step without rows"
        if plan.index == self.fail_at:
            raise PeerError("rank 1 (dp 0, tp 1) died of signal 9")
        if self.plans is not None:
            self.plans.append(msgspec.json.encode(plan))
        self.steps += 1
        self.index, self.awaits = plan.index, plan.awaits
        return StepResult(plan.index, [self._run_group(group, part) for group, part in enumerate(plan.groups)])

    def close(self) -> None:
        pass

    def _run_group(self, group: int, plan: GroupPlan) -> GroupResult:
        memory, rows, every = self.groups[group], plan.num_rows, plan.every_run()
        assert rows <= self.config.tokens_per_step, f"{rows} rows"
        assert len({run.slot for run in every}) == len(every) <= self.config.max_num_seqs, "slots"
        assert {admit.slot for admit in plan.new_requests} <= {run.slot for run in every}, "admitted, not run"
        for admit in plan.new_requests:
            assert 0 <= admit.slot < self.config.max_num_seqs
            memory.slots[admit.slot] = SlotState(admit)
        self.computed_rows[group] += rows
        written: set[int] = set()
        runs = [memory.slots[run.slot].with_table(run) for run in every]
        for run in runs:
            self._write(memory, run, written)
        return GroupResult.of(plan, [self._answer(memory, run) for run in runs if run.sample or run.targets])

    def _write(self, memory: GroupMemory, run: ScheduledRequest, written: set[int]) -> None:
        slot = memory.slots[run.slot]
        assert run.ids or slot.last_id is not None, "no id to go on with"
        if self.layout.pipeline.stages > 1:
            assert self.awaits <= self.index, "a step that awaits itself"
            assert run.ids or slot.sampled_in < self.awaits, "the first stage does not have the id"
        ids = run.ids or [slot.last_id or 0]
        assert len(ids) == run.count > 0, "one id per row"
        assert run.start == (run.start if slot.end is None else slot.end), "rows left out or computed twice"
        slot.end = run.start + run.count
        for position, token in enumerate(ids, run.start):
            cell = self._cell(run.blocks, position)
            assert cell not in written, "two rows write one cell"
            written.add(cell)
            before = memory.cells[self._cell(run.blocks, position - 1)] if position else EMPTY
            memory.cells[cell] = cell_of(before, token)

    def _cell(self, blocks: Sequence[int], position: int) -> int:
        block = blocks[position // self.config.tokens_per_block]
        assert 1 <= block <= self.num_blocks, f"block {block}"
        return block * self.config.tokens_per_block + position % self.config.tokens_per_block

    def _answer(self, memory: GroupMemory, run: ScheduledRequest) -> Sampled:
        prompt = memory.slots[run.slot].admit.prompt_ids
        assert run.targets in ([], prompt[run.start + 1 : run.start + run.count + 1])
        scored = [TokenLogprob(token, -1.0, 1, []) for token in run.targets]
        sampled = self._sample(memory, run) if run.sample else Sampled(run.slot, -1)
        return msgspec.structs.replace(sampled, prompt=scored)

    def _sample(self, memory: GroupMemory, run: ScheduledRequest) -> Sampled:
        slot, size = memory.slots[run.slot], self.config.tokens_per_block
        end = run.start + run.count
        pages = (memory.cells[block * size : (block + 1) * size] for block in run.blocks)
        cells = [cell for page in pages for cell in page][:end]
        assert run.output_pos == len(slot.admit.output_ids) + slot.sampled, "output position"
        slot.sampled += 1
        slot.sampled_in = self.index
        if run.output_pos == self.poison.get(slot.admit.seed):
            slot.last_id = 0
            return Sampled(run.slot, 0, error="logits are not finite")
        slot.last_id = next_token(cells, slot.admit.seed, self.vocab)
        alternatives = slot.admit.params.logprobs
        if alternatives is None:
            return Sampled(run.slot, slot.last_id)
        return Sampled(run.slot, slot.last_id, -0.5, 1, [(slot.last_id, -0.5)] * alternatives)


class AsyncPagedFake(PagedFake):
    """An `AsyncExecutor` too, whose ranks have run a plan long before its result is collected."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._in_flight: deque[StepPlan] = deque()
        self._unread: deque[StepResult] = deque()

    def submit(self, plan: StepPlan) -> None:
        self._in_flight.append(plan)
        self._unread.append(self._step(plan))
        self.most_in_flight = max(self.most_in_flight, len(self._in_flight))

    def collect(self) -> StepResult:
        self._in_flight.popleft()
        return self._unread.popleft()
