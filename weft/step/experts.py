"""What ranks do with expert slots beside a step: receive weights for new placements, and take a placement up.

Plain records; no tensor, no scheduler. Slots are numbers of the whole expert block, layers numbers of the model.
"""

from __future__ import annotations

import msgspec


class ExpertMove(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Part `part` of `parts` of the weights in slot `source` goes to whoever owns `slot`, which keeps it beside what
    `slot` holds until the layer switches."""

    layer: int
    slot: int
    source: int
    part: int
    parts: int


class ExpertSwitch(msgspec.Struct, frozen=True, array_like=True):
    """From this step on `layer` has this expert in each slot; every slot that changes has all of its weights."""

    layer: int
    experts: list[int]


class ExpertWork(msgspec.Struct, frozen=True, array_like=True):
    """Done before the step's rows are computed: first the switches, then the moves."""

    moves: list[ExpertMove] = []
    switches: list[ExpertSwitch] = []
