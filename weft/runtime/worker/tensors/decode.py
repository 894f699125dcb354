"""Decode steps the short way: where every row of a rank's group is a decode row, one call of C++ makes the inputs, runs
the program and, where it can, chooses the tokens.

Most steps are of this kind, and a step leaves weights in the caches: a NumPy or torch call then takes many times as
long as when it is repeated. What is less simple takes the general path (`InputBuilder.build`, `Sampler`), which gives
the same inputs and the same tokens. Steps that follow, with the counts of rows of one that was run so, need no Python
at all: C++ reads the frames itself.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor

from weft.base.step.plan import GroupPlan, GroupResult, RankPlan
from weft.compute.native.records import Chose
from weft.compute.native.runtime_records import DecodeRecord, FeedCall, FollowingRecord, MaskCall
from weft.compute.ops.attention import AttentionMeta, KeyShare
from weft.compute.sampling.sampled_rows import sampled_rows
from weft.compute.sampling.sampler import Sampler
from weft.model.models.decoder import Batch
from weft.model.program.build import RankProgram
from weft.runtime.worker.tensors.decode_shapes import DecodeShape, DecodeShapes
from weft.runtime.worker.tensors.inputs import InputBuilder, StepInputs
from weft.runtime.worker.tensors.step_shape import Geometry, StepShape


class DecodeSteps:
    """Of one rank and its program. `last_ids` [slots] as of `inputs`; `chooses`: whether the rank's stage is the last
    one, which samples."""

    def __init__(
        self,
        inputs: InputBuilder,
        sampler: Sampler,
        program: RankProgram,
        last_ids: Tensor,
        geometry: Geometry,
        *,
        chooses: bool,
    ) -> None:
        share = geometry.share or KeyShare(0, 1)
        self._inputs, self._sampler, slots, logits = inputs, sampler, len(last_ids), program.program.logits
        self._chooses, self._fit = chooses, logits.dtype == torch.float32
        """`_fit`: whether the kernel takes such logits."""
        self._ids, self._chosen = np.zeros((slots, 1), np.int64), np.zeros(slots, np.int64)
        self._rows = np.zeros((2, slots), np.int32)
        """Positions, and places in the cache."""
        self._run_of_row = np.arange(slots, dtype=np.int32)
        self._values, self._all_values = np.zeros((slots, 2)), np.zeros((geometry.layout.group_size, slots, 2))
        """Of each row id and whether its logits are finite, or the largest logit of a rank's columns: of own rows, and
        of every rank's."""
        self._shape: DecodeShape | None = None
        self._shapes = DecodeShapes(geometry.stage_rank)
        """Those that steps may have which follow without Python."""
        group, members, position = program.sharing
        self.record = DecodeRecord(
            slots=slots,
            block_size=geometry.block_size,
            owner=share.owner,
            owners=share.owners,
            last_ids=last_ids.data_ptr(),
            ids=self._ids.ctypes.data,
            positions=self._rows[0].ctypes.data,
            places=self._rows[1].ctypes.data,
            chosen_from=sampler.chosen_from.ctypes.data,
            logits=logits.data_ptr(),
            vocabulary=logits.shape[1],
            values=self._values.ctypes.data,
            chosen=self._chosen.ctypes.data,
            group=group,
            members=members,
            position=position,
            all_values=self._all_values.ctypes.data,
        )
        self._let_grammars_rule(slots)
        if (own := program.program.local_logits) is not None:
            self.record.local_logits, self.record.local_columns = own.address, own.columns
            self.record.first_column = own.first
        self._take_tables()

    def _let_grammars_rule(self, slots: int) -> None:
        """C++ asks for masks, and hands over what it chose."""
        record, self._masks = self.record, np.zeros(slots, np.uint64)
        self._mask_call, self._feed_call = MaskCall(self._mask), FeedCall(self._feed)
        record.has_grammar, record.masks = self._sampler.has_grammar.ctypes.data, self._masks.ctypes.data
        record.mask = ctypes.cast(self._mask_call, ctypes.c_void_p).value
        record.feed = ctypes.cast(self._feed_call, ctypes.c_void_p).value

    def _mask(self, slot: int) -> int | None:
        """No exception passes through C++: with None the tokens of the step are chosen in Python, where the same
        exception is raised again."""
        try:
            return self._sampler.grammars.mask_address(slot)
        except Exception:  # raised again in Python
            return None

    def _feed(self, slot: int, token: int, own: bool) -> None:
        self._sampler.grammars.feed(slot, token, own)

    @staticmethod
    def takes(group: GroupPlan) -> bool:
        """Whether a step of this group is one."""
        return not group.runs and bool(group.decodes.columns)

    def run(self, program: RankProgram, plan: RankPlan) -> tuple[Tensor, GroupResult | None]:
        """The rank's logits, as of the program, and what its group's rows gave; None where tokens are still to be
        chosen, from `inputs`."""
        shape, record = self._inputs.learn(plan), self.record
        if self._tables is not self._inputs.tables.rows:
            self._take_tables()
        if self._shape is None or shape is not self._shape.shape:
            self._take_shape(self._shapes.find(shape) or self._make(shape))
        assert self._shape is not None
        self._take_sampler()
        record.columns = plan.group.decodes.columns
        logits = program.run(self.batch, record)
        if not plan.sampled and (self._able or not self._chooses) and self._shapes.find(shape) is None:
            self._shapes.add(self._shape, program)
        return logits, GroupResult(self._ids_of_rows.tobytes()) if record.chose != Chose.NONE else None

    @property
    def may_follow(self) -> bool:
        """Whether steps may follow without Python."""
        return len(self._shapes) > 0 and self._tables is self._inputs.tables.rows

    def follow(self, program: RankProgram, following: FollowingRecord) -> bool:
        """Runs the steps that follow, as long as they have shapes of steps that `run` has run, with what `following`
        has room for. True: of the next step, which has run too, tokens are still to be chosen, from `inputs`."""
        self._take_sampler()
        self._shapes.hand_to(following)
        ran = program.follow(self.record, following)
        if following.current >= 0:
            self._take_shape(self._shapes[following.current])
        return ran

    def inputs(self, group: GroupPlan) -> StepInputs:
        """Those of the step that ran last, `group` its plan."""
        assert self._shape is not None
        decodes = group.decodes.array()
        own = self._shape.shape.own
        return StepInputs(self.batch, sampled_rows(decodes, ()), own, None, torch.tensor(decodes[0]))

    @property
    def _able(self) -> bool:
        """Whether tokens can be chosen without Python."""
        return self._chooses and self._fit and self._sampler.kernel is not None

    def _take_sampler(self) -> None:
        self.record.grammars = len(self._sampler.grammars.slots)
        self.record.sampling = self._sampler.table.address if self._able else None

    def _take_tables(self) -> None:
        self._tables = self._inputs.tables.rows
        self._block_tables = np.zeros_like(self._tables)
        self.record.tables, self.record.table_width = self._tables.ctypes.data, self._tables.shape[1]
        self.record.block_tables = self._block_tables.ctypes.data
        self.record.highest = self._inputs.tables.highest.ctypes.data
        self._shape = None
        self._shapes.clear()

    def _take_shape(self, found: DecodeShape) -> None:
        self._shape, self.batch, (first, end) = found, found.batch, found.shape.own
        count = len(found.shape.run_of_row)
        self.record.rows, self.record.own_first, self.record.own_count = count, first, end - first
        self.record.rows_of = found.chosen_by.ctypes.data
        self._ids_of_rows = memoryview(self._chosen.data)[:count]

    def _make(self, shape: StepShape) -> DecodeShape:
        count = len(shape.run_of_row)
        positions, places, run_of_row = map(torch.from_numpy, (*self._rows, self._run_of_row))
        meta = AttentionMeta(
            positions[:count],
            places[:count],
            run_of_row[:count],
            torch.from_numpy(self._block_tables),
            shape.row_ends,
        )
        ids = torch.from_numpy(self._ids)[:count]
        batch = Batch(ids, meta, shape.rows, shape.sampled, shape.sampled_rows, meta)
        return DecodeShape(shape, batch, np.array(shape.chosen_by, np.int64))
