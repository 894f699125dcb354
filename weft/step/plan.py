"""The step plan: what every rank runs in one step, and what comes back. Plain records; no tensor, no scheduler.

One `StepPlan` goes to every rank. Ranks obey it and decide nothing. A request that is running in an attention-dp
group has a `slot` there (0 .. max_num_seqs - 1); ranks keep per-slot state (last sampled id, sampling state) under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from weft.step.experts import ExpertWork
from weft.step.sampling_params import SamplingParams

WORD = np.dtype("<i8")
"""Of columns."""
ROW_BYTES = 3 * WORD.itemsize
"""Of a row of `DecodeRows`."""


class NewRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request takes `slot` from this step on; replaces whatever the slot held.

    `prompt_ids` are the request's prompt, `output_ids` what it had generated before a preemption (both needed by
    penalties). `seed` is resolved: never None.
    """

    slot: int
    prompt_ids: list[int]
    output_ids: list[int]
    params: SamplingParams
    seed: int


class ScheduledRequest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request's rows in one step: positions start .. start + count - 1.

    `ids` are the tokens to compute (prompt, or recomputed after a preemption); empty for a decode row, whose one id is
    the slot's last sampled id. Of the slot's block table (block ids count from 1; 0 is the null block) the first
    `known` entries stay, `blocks` follow; it then covers every position up to start + count - 1. `sample`: the last
    row is sampled; `output_pos` is the index of the output token that it gives (0 for the first).

    `targets`: where the prompt's own log-probabilities are wanted, the ids that follow the first len(targets) rows: all
    rows but the last where that is sampled.
    """

    slot: int
    start: int
    count: int
    ids: list[int]
    blocks: list[int]
    sample: bool
    output_pos: int = 0
    targets: list[int] = []
    known: int = 0


class DecodeRows(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Requests with one row each, a decode row, which is sampled: as columns, for most steps have nothing else.

    `columns`: int64, little endian, [3, rows]: slot, start (the row's position), output_pos. What is new in block
    tables: `grown`, of blocks behind those that are known, int64, little endian, [blocks, 3]: slot, known (those that
    came before it included), block; `table_updates`, where more has changed: slot, known, blocks; all as of a
    `ScheduledRequest`.
    """

    columns: bytes = b""
    table_updates: list[tuple[int, int, list[int]]] = []
    grown: bytes = b""

    def __len__(self) -> int:
        return len(self.columns) // ROW_BYTES

    def array(self) -> NDArray[np.int64]:
        """[3, rows], read-only."""
        return np.frombuffer(self.columns, WORD).reshape(3, -1)

    def new_blocks(self) -> NDArray[np.int64]:
        """`grown`, [blocks, 3], read-only."""
        return np.frombuffer(self.grown, WORD).reshape(-1, 3)

    @classmethod
    def of(cls, runs: Sequence[ScheduledRequest]) -> DecodeRows:
        """Decode rows that are given as runs."""
        columns = [[run.slot for run in runs], [run.start for run in runs], [run.output_pos for run in runs]]
        table_updates = [(run.slot, run.known, run.blocks) for run in runs if run.blocks]
        return cls(np.array(columns, WORD).tobytes(), table_updates)


class GroupPlan(msgspec.Struct, frozen=True, array_like=True):
    """One attention-dp group's part: rows are those of `decodes`, then the runs' rows, in order."""

    new_requests: list[NewRequest] = []
    runs: list[ScheduledRequest] = []
    decodes: DecodeRows = DecodeRows()

    @property
    def num_rows(self) -> int:
        """Rows of the group."""
        streams = len(self.decodes.columns) // ROW_BYTES
        return streams + sum([run.count for run in self.runs]) if self.runs else streams

    def every_run(self) -> list[ScheduledRequest]:
        """Streams as runs too, in the order of their rows; `known` is 0 where a table has no news."""
        table_updates = {slot: (known, [*blocks]) for slot, known, blocks in self.decodes.table_updates}
        for slot, known, block in self.decodes.new_blocks().tolist():
            table_updates.setdefault(slot, (known, []))[1].append(block)
        extras = [
            (table_updates.get(slot, (0, [])), slot, start, at) for slot, start, at in self.decodes.array().T.tolist()
        ]
        return [
            ScheduledRequest(slot, start, 1, [], blocks, True, at, [], n) for (n, blocks), slot, start, at in extras
        ] + self.runs


FEWEST_SCORED = 16
"""Prompt rows of a step that may be scored, however few requests may run: each needs a row of logits."""


def most_sampled(max_num_seqs: int) -> int:
    """Rows of logits that a step of one group has at most: one of every request, and those of scored prompts."""
    return max_num_seqs + max(FEWEST_SCORED, max_num_seqs)


class StepPlan(msgspec.Struct, frozen=True, array_like=True):
    """groups[g] belongs to attention-dp group g; a group without runs takes part with zero rows. `experts`: what moves
    between expert slots before the step."""

    index: int
    groups: list[GroupPlan]
    experts: ExpertWork | None = None

    @property
    def num_rows(self) -> int:
        """Rows of all groups."""
        return sum([group.num_rows for group in self.groups])


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Natural logarithms. `rank` is the token's place among all (1: most likely); `top` is most likely first."""

    token_id: int
    logprob: float
    rank: int
    top: list[tuple[int, float]]


class Sampled(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One sampled token. `logprob` and `top` (id, logprob; most likely first) only where the request asked for them.

    `prompt`: of the run's targets, in order; a run that only scores has no token, `token_id` is -1. `error` ends the
    request (its logits were not finite); `token_id` means nothing then.
    """

    slot: int
    token_id: int
    logprob: float | None = None
    rank_of_token: int = 0
    top: list[tuple[int, float]] = []
    error: str | None = None
    prompt: list[TokenLogprob] = []


class GroupResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one group's rows gave. `ids`: int64, little endian, the sampled id of each stream; `extras`: of the streams
    that have more to tell than an id; `runs`: one for each run with `sample` or `targets`; all in the plan's order."""

    ids: bytes = b""
    extras: list[Sampled] = []
    runs: list[Sampled] = []

    def array(self) -> NDArray[np.int64]:
        """`ids`, [streams], read-only."""
        return np.frombuffer(self.ids, WORD)

    def every(self, plan: GroupPlan) -> list[Sampled]:
        """One for each of `plan.every_run()` with `sample` or `targets`."""
        extras = {each.slot: each for each in self.extras}
        streams = zip(plan.decodes.array()[0].tolist(), self.array().tolist(), strict=True)
        return [extras.get(slot) or Sampled(slot, token) for slot, token in streams] + self.runs

    @classmethod
    def of(cls, plan: GroupPlan, sampled: Iterable[Sampled]) -> GroupResult:
        """From one for each of `plan.every_run()` with `sample` or `targets`."""
        records = list(sampled)
        streams, runs = records[: len(plan.decodes)], records[len(plan.decodes) :]
        extras = [each for each in streams if each != Sampled(each.slot, each.token_id)]
        return cls(np.array([each.token_id for each in streams], WORD).tobytes(), extras, runs)


class StepResult(msgspec.Struct, frozen=True, array_like=True):
    """groups[g] is what group g's rows gave."""

    index: int
    groups: list[GroupResult]
