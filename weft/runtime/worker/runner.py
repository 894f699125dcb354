"""Runner: one rank's side of a step. Obeys plans; decides nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.base.step.plan import GroupPlan, GroupResult, RankPlan, ScheduledRequest, StepPlan
from weft.compute.native.runtime_records import FollowingRecord
from weft.compute.ops import Invariance
from weft.model.program.build import RankProgram
from weft.parallel.arch.forward_plan import rank_plans
from weft.runtime.worker.reporting_rank import ReportingRank
from weft.runtime.worker.tensors.decode import DecodeSteps
from weft.runtime.worker.tensors.graphs import StepGraphs
from weft.runtime.worker.tensors.inputs import StepInputs
from weft.runtime.worker.warm_up import linear_weights, not_captured

WARM_UP_ROWS = 2
CHECK_S, CHECK_ON_DEVICE_S = 0.5, 30.0
"""Seconds that the check of batch invariance may take; on a device it loads libraries and compiles kernels."""


class Runner(ReportingRank):
    """A rank whose `step` runs one plan."""

    def step(self, plan: RankPlan) -> GroupResult:
        """Runs the plan; what the rows of this rank's group gave."""
        if plan.experts is not None:
            self.experts.run(plan.experts)
        if self.pipeline.last:
            self.sampler.prepare(plan.group)
        self.ids.take(plan.awaits)
        if self.decode is not None and self.program is not None and not plan.eager and self.decode.takes(plan.group):
            return self._decode(self.decode, self.program, plan)
        return self._run(plan)

    def _decode(self, decode: DecodeSteps, program: RankProgram, plan: RankPlan) -> GroupResult:
        logits, result = decode.run(program, plan)
        self.rows += self._own_rows(decode)
        if result is None:
            return self._finish(plan.index, logits, decode.inputs(plan.group))
        self.ids.send(result, decode.batch.sampled)
        return result

    def _own_rows(self, decode: DecodeSteps) -> int:
        return decode.batch.rows.rows[self.geometry.stage_rank]

    def follow(self, following: FollowingRecord) -> bool:
        """Runs the steps that follow as far as that takes no Python; `following` says where they come from, and counts
        them. True: the next step has run too, and wants `choose`."""
        following.steps = following.busy_ns = 0
        if self.decode is None or self.program is None or not self.decode.may_follow:
            return False
        ran = self.decode.follow(self.program, following)
        self.rows += following.counted
        return ran

    def choose(self, plan: RankPlan) -> GroupResult:
        """As `step`, of a plan whose step has run."""
        assert self.decode is not None and self.program is not None
        self.rows += self._own_rows(self.decode)
        logits = self.program.program.logits[: self.decode.record.own_count]
        return self._sample(logits, self.decode.inputs(plan.group))

    @torch.inference_mode()
    def _run(self, plan: RankPlan) -> GroupResult:
        graphs = self.graphs
        ran = None if graphs is None else graphs.decode(self.inputs, plan)
        inputs = self.inputs.build(plan) if ran is None else ran[1]
        self.rows += inputs.batch.rows.rows[self.geometry.stage_rank]
        if ran is None and graphs is not None:
            ran = graphs.prompts(inputs)
        if ran is not None:
            return self._sample(*ran)
        assert plan.eager or not inputs.batch.gathers_keys
        if self.program is None or plan.eager:
            found = self.decoder.forward(inputs.batch, self.caches, self.pipeline.arrived(inputs.batch))
            self.pipeline.pass_on(found, inputs.batch)
        else:
            found = self.program.run(inputs.batch)
        return self._finish(plan.index, found, inputs)

    def _finish(self, index: int, found: Tensor, inputs: StepInputs) -> GroupResult:
        """After the decoder: the last stage samples from the logits; the other stages have sent their result on."""
        if self.pipeline.last:
            return self._sample(found, inputs)
        self.ids.expect(index, inputs.sampled)
        return GroupResult()

    @torch.inference_mode()
    def _sample(self, logits: Tensor, inputs: StepInputs, greedy: Tensor | None = None) -> GroupResult:
        """`greedy`: values of the rows if all are sampled greedily, where they are computed already."""
        rows, own = inputs.sampled, inputs.own_sampled
        width = self.sampler.width(rows)
        if greedy is None or not self.sampler.takes_largest(own, width):
            greedy = self.sampler.sample(logits, own, width)
        values = self.decoder.share_sampled(greedy, inputs.batch)
        values = values if inputs.order is None else values[inputs.order]
        self.pipeline.send_ids(values, inputs.batch.sampled)
        drawn = values if inputs.drawn is None else values[inputs.drawn]
        self.last_ids.index_copy_(0, inputs.slots, drawn[:, 0].to(torch.int64))
        return self.sampler.remember(values, rows, inputs.own_numbers)

    def warm_up(self) -> Invariance:
        """Chooses matrix products whose result for a row does not depend on the number of rows, and returns what it
        found. Then runs steps: with a few rows for every group, which write to the null block, and without rows."""
        seconds = CHECK_S if self.device.type == "cpu" else CHECK_ON_DEVICE_S
        invariance = self.ops.check_batch_invariance(linear_weights(self.params, self.device), seconds)
        blocks = [0] * -(-WARM_UP_ROWS // self.geometry.owners.span)
        run = ScheduledRequest(slot=0, start=0, count=WARM_UP_ROWS, ids=[0] * WARM_UP_ROWS, blocks=blocks, sample=True)
        layout, itemsize = self.shards.layout, self.ops.numerics.dtype.itemsize
        plans = rank_plans(self.shards.forward_plan, layout, self.limits.block_size, itemsize)
        for runs in ([run], [run], []):
            every = StepPlan(0, [GroupPlan([], list(runs)) for _ in range(layout.attention.dp)])
            self.step(plans.split(every)[self.geometry.group])
            self.ids.take_all()
        self.experts.counts()  # drops the counts of these steps
        if self.graphs is not None:
            self._capture(self.graphs)
        return invariance

    @torch.inference_mode()
    def _capture(self, graphs: StepGraphs) -> None:
        try:
            graphs.capture()
        except RuntimeError as error:  # torch's; out of memory is one
            raise not_captured(error) from error
        self.experts.counts()
