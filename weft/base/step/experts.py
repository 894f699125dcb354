"""What ranks do with expert slots before a step: move weights for a new placement, and switch a layer to it.

Plain records. Slots are numbered over the whole expert block, layers over the model.
"""

from __future__ import annotations

import msgspec


class ExpertMove(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Part `part` of `parts` of the weights in slot `source` goes to the rank that owns `slot`, which keeps it beside
    the slot's weights until the layer switches."""

    layer: int
    slot: int
    source: int
    part: int
    parts: int


class ExpertSwitch(msgspec.Struct, frozen=True, array_like=True):
    """From this step on `layer` has expert `experts[i]` in slot i; the rank has all parts of changed slots."""

    layer: int
    experts: list[int]


class ExpertWork(msgspec.Struct, frozen=True, array_like=True):
    """Done before the step's rows are computed: first the switches, then the moves."""

    moves: list[ExpertMove] = []
    switches: list[ExpertSwitch] = []
