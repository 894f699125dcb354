"""Names the first module whose result differs between one rank and a layout.

The same prompt goes to every attention-dp group, so that every rank computes rows that one rank computes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.base.step.plan import GroupPlan, NewRequest, ScheduledRequest, StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.tools.verify.compare import relative_difference
from weft.tools.verify.record import Parts


@dataclass(frozen=True, slots=True)
class ModuleDifference:
    """Where a layout leaves the reference: module, step (prefill or decode), attention-dp group, how far."""

    module: str
    step: str
    group: int
    difference: float


def trace(
    reference: LockstepExecutor, other: LockstepExecutor, prompt: Sequence[int], tolerance: float
) -> ModuleDifference | None:
    """The first module, in the order of a forward pass, that differs by more than tolerance; None where none does.

    Runs the prompt but its last token as a prefill, then the last token as a decode row.
    """
    groups = other.layout.attention.dp
    for step, plans in (("prefill", _plan(prompt[:-1], 0)), ("decode", _plan(prompt[-1:], len(prompt) - 1))):
        want, got = Parts(reference), Parts(other)
        reference.step(_for_groups(plans, 1, reference.owners.span, len(prompt)))
        of_groups = _for_groups(plans, groups, other.owners.span, len(prompt))
        other.step(of_groups)
        for name in want.parts:
            rows = got.in_plan_order(of_groups, got.whole(name))
            found = _differs(name, step, want.whole(name), rows, groups, tolerance)
            if found:
                return found
    return None


def _differs(name: str, step: str, want: Tensor, got: Tensor, groups: int, tolerance: float) -> ModuleDifference | None:
    rows = got.shape[0] // groups
    # in the last layer one of the two may go on with the sampled row, a prompt's last, before the other does
    both = min(rows, len(want))
    for group, part in enumerate(torch.split(got, rows)):
        difference = relative_difference(want[-both:], part[-both:])
        if not difference <= tolerance:
            return ModuleDifference(name, step, group, difference)
    return None


def _plan(ids: Sequence[int], start: int) -> tuple[list[int], int]:
    return list(ids), start


def _for_groups(part: tuple[list[int], int], groups: int, block_size: int, length: int) -> StepPlan:
    ids, start = part
    params = SamplingParams(temperature=0.0)
    blocks = list(range(1, -(-length // block_size) + 1))
    run = ScheduledRequest(slot=0, start=start, count=len(ids), ids=ids, blocks=blocks, sample=True)
    admits = [NewRequest(0, ids, [], params, 0)] if start == 0 else []
    return StepPlan(0, [GroupPlan(list(admits), [run]) for _ in range(groups)])
