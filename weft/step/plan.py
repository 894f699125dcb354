"""The step plan: what every rank runs in one step, and what comes back. Plain records; no tensor, no scheduler.

One `StepPlan` goes to every rank. Ranks obey it and decide nothing. A request that is running in an attention-dp
group has a `slot` there (0 .. max_num_seqs - 1); ranks keep per-slot state (last sampled id, sampling state) under it.
"""

from __future__ import annotations

import msgspec

from weft.step.experts import ExpertWork
from weft.step.sampling_params import SamplingParams


class Admit(msgspec.Struct, frozen=True, array_like=True):
    """A request takes `slot` from this step on; replaces whatever the slot held.

    `prompt_ids` are the request's prompt, `output_ids` what it had generated before a preemption (both needed by
    penalties). `seed` is resolved: never None.
    """

    slot: int
    prompt_ids: list[int]
    output_ids: list[int]
    params: SamplingParams
    seed: int


class Run(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request's rows in one step: positions start .. start + count - 1.

    `ids` are the tokens to compute (prompt, or recomputed after a preemption); empty for a decode row, whose one id is
    the slot's last sampled id. Of the slot's block table (block ids count from 1; 0 is the null block) the first
    `known` entries stay, `blocks` follow; it then covers every position up to start + count - 1. `sample`: the last
    row is sampled; `output_pos` is the index of the output token that it gives (0 for the first).

    `targets`: where the prompt's own log-probabilities are wanted, the ids that follow the first len(targets) rows.
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


class GroupPlan(msgspec.Struct, frozen=True, array_like=True):
    """One attention-dp group's part: rows are the runs' rows, in order."""

    admits: list[Admit] = []
    runs: list[Run] = []


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


class StepResult(msgspec.Struct, frozen=True, array_like=True):
    """groups[g] has one `Sampled` for each run of group g with `sample` or `targets`, in the plan's order."""

    index: int
    groups: list[list[Sampled]]
