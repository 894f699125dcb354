"""The step plan, the part of it that a rank runs, and the results of a step. Plain records.

Ranks make no scheduling decisions: each gets its part of the engine's `StepPlan`. A request that is running in an
attention-dp group has a `slot` there (0 .. max_num_seqs - 1); ranks keep per-slot state (last sampled id, sampling
state) under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from weft.base.step.experts import ExpertWork
from weft.base.step.sampling_params import SamplingParams

WORD = np.dtype("<i8")
"""Dtype of columns."""
ROW_BYTES = 3 * WORD.itemsize
"""Bytes of one row of `DecodeRows.columns`."""


GRAMMAR_FAILED = "the grammar took more work than is allowed, or allows no token of this model"
"""Error of a `Sampled` whose grammar could not go on."""


class NewRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request takes `slot` from this step on; it replaces the request that had the slot.

    `output_ids` were generated before a preemption (penalties need them and `prompt_ids`). `seed` is resolved: never
    None.
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
    `known` entries stay, then come `blocks`; the table then covers all positions up to start + count - 1. `sample`: the
    last row is sampled; `output_pos` is the index of its output token (0 for the first).

    `targets`: the next ids of the first len(targets) rows, if log-probabilities of the prompt are wanted: of all rows
    but the last if that is sampled.
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
    """Decode rows, as columns: one sampled row of each decoding request. Most steps have nothing else.

    `columns`: int64, little endian, [3, rows]: slot, start (the row's position), output_pos.
    `grown`: int64, little endian, [blocks, 3]: slot, known, block, for tables that get a block after `known` entries.
    `table_updates`: slot, known, blocks, for tables with other changes; meaning as in `ScheduledRequest`.
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
        """Decode rows from runs."""
        columns = [[run.slot for run in runs], [run.start for run in runs], [run.output_pos for run in runs]]
        table_updates = [(run.slot, run.known, run.blocks) for run in runs if run.blocks]
        return cls(np.array(columns, WORD).tobytes(), table_updates)


class GroupPlan(msgspec.Struct, frozen=True, array_like=True):
    """One attention-dp group's part: the rows of `decodes`, then the rows of `runs`, in order."""

    new_requests: list[NewRequest] = []
    runs: list[ScheduledRequest] = []
    decodes: DecodeRows = DecodeRows()

    @property
    def num_rows(self) -> int:
        """Rows of the group."""
        decodes = len(self.decodes.columns) // ROW_BYTES
        return decodes + sum([run.count for run in self.runs]) if self.runs else decodes

    def every_run(self) -> list[ScheduledRequest]:
        """All rows as runs, in order; of decode rows, `known` is 0 if the table has not changed."""
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
"""Prompt rows that a step may always score; each needs a row of logits."""


def most_sampled(max_num_seqs: int) -> int:
    """Most rows of logits in one group's step: one for each request, and those of scored prompts."""
    return max_num_seqs + max(FEWEST_SCORED, max_num_seqs)


class StepPlan(msgspec.Struct, frozen=True, array_like=True):
    """groups[g] is attention-dp group g's part; a group without work has zero rows there. `experts`: moves between
    expert slots before the step. `awaits`: with pipeline stages, the first stage must have the sampled ids of all steps
    below this number before it begins."""

    index: int
    groups: list[GroupPlan]
    experts: ExpertWork | None = None
    awaits: int = 0

    @property
    def num_rows(self) -> int:
        """Rows of all groups."""
        return sum([group.num_rows for group in self.groups])


class RankPlan(msgspec.Struct, frozen=True, array_like=True):
    """What every rank of one attention-dp group runs of a step: the `group`'s rows, and of the others only how many.

    rows[r], sampled[r]: rows and sampled rows of rank r of the stage; `sampled` is empty where all rows are sampled.
    `awaits`: as of `StepPlan`. `eager`: every rank of the stage runs this step operation by operation, for a part of it
    has no recorded form. All ranks have the same value, so that they meet in the same exchanges.
    """

    index: int
    rows: tuple[int, ...]
    sampled: tuple[int, ...]
    group: GroupPlan
    experts: ExpertWork | None = None
    awaits: int = 0
    eager: bool = False


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Log-probabilities are natural. `rank`: of the token among all (1: most likely); `top`: most likely first."""

    token_id: int
    logprob: float
    rank: int
    top: list[tuple[int, float]]


class Sampled(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One sampled token. `logprob` and `top` (id, logprob; most likely first) only if the request asked for them.

    `prompt`: of the run's targets, in order; a run that is only scored has `token_id` -1. `error` ends the request (its
    logits were not finite); `token_id` has no meaning then.
    """

    slot: int
    token_id: int
    logprob: float | None = None
    rank_of_token: int = 0
    top: list[tuple[int, float]] = []
    error: str | None = None
    prompt: list[TokenLogprob] = []


class GroupResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Results of one group's rows, in the plan's order. `ids`: int64, little endian, the sampled id of each decode row;
    `extras`: of decode rows that have more than an id; `runs`: of each run with `sample` or `targets`."""

    ids: bytes = b""
    extras: list[Sampled] = []
    runs: list[Sampled] = []

    def array(self) -> NDArray[np.int64]:
        """`ids`, [decode rows], read-only."""
        return np.frombuffer(self.ids, WORD)

    def every(self, plan: GroupPlan) -> list[Sampled]:
        """One for each of `plan.every_run()` with `sample` or `targets`."""
        extras = {each.slot: each for each in self.extras}
        decodes = zip(plan.decodes.array()[0].tolist(), self.array().tolist(), strict=True)
        return [extras.get(slot) or Sampled(slot, token) for slot, token in decodes] + self.runs

    @classmethod
    def of(cls, plan: GroupPlan, sampled: Iterable[Sampled]) -> GroupResult:
        """From one for each of `plan.every_run()` with `sample` or `targets`."""
        records = list(sampled)
        decodes, runs = records[: len(plan.decodes)], records[len(plan.decodes) :]
        extras = [each for each in decodes if each != Sampled(each.slot, each.token_id)]
        return cls(np.array([each.token_id for each in decodes], WORD).tobytes(), extras, runs)


class StepResult(msgspec.Struct, frozen=True, array_like=True):
    """groups[g] holds the results of group g."""

    index: int
    groups: list[GroupResult]
