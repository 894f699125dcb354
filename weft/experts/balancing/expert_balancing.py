"""Balancing of expert slots while serving: window, decision, moves, switch.

count rows per expert  ->  window full: read them, decide  ->  parts of slots move  ->  a layer switches

One object serves all engines of a server, one after the other. If ranks die, their moves are lost; new ranks begin with
the placement in force, which is the one that the old ranks had switched to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from msgspec.structs import asdict

from weft.errors import WeftError
from weft.experts.balancing.balancer import LoadBalancer
from weft.experts.balancing.placement_planner import PlacementPlanner
from weft.experts.placement.placement import ExpertPlacement
from weft.experts.placement.transport import TransferRate, works
from weft.experts.statistics.counters import ExpertCounters, ExpertStats
from weft.experts.statistics.loads import FloatArray, IntArray
from weft.experts.statistics.metric import balance
from weft.experts.statistics.recorder import LoadRecorder
from weft.log import get_logger
from weft.step.experts import ExpertWork

_log = get_logger(__name__)


class CountsExperts(Protocol):
    """The part of an executor that balancing needs."""

    def expert_counts(self) -> IntArray:
        """Rows that chose each expert since the last call, [layers with experts, experts], added up over the ranks."""


@dataclass(frozen=True, slots=True)
class BalanceSettings:
    """`interval`: steps from one decision to the next, the last `window` of them count. `layers`: numbers of the
    layers with experts. `balancer` None: loads are recorded, nothing moves. `slot_bytes`: of one slot on one rank."""

    layers: tuple[int, ...]
    interval: int
    window: int
    threshold: float = 1.0
    balancer: LoadBalancer | None = None
    most_moved: int = 0
    """Slots of a layer that one decision may change."""
    pace: TransferRate = TransferRate()
    slot_bytes: int = 0


@dataclass(slots=True)
class _Moving:
    """A placement that is being installed: work left for later steps, and the work `sent` with the current step."""

    target: ExpertPlacement
    works: Iterator[ExpertWork]
    layers: int
    sent: ExpertWork | None = None


@dataclass(slots=True)
class _Seen:
    """The loads of the last full window, and their balance under the placement at its end."""

    loads: FloatArray
    before: tuple[float | None, ...] = field(default=())


class ExpertBalancing:
    """`placement` is in force: all ranks have switched to it. Call `work` before and `stepped` after every step."""

    def __init__(
        self,
        settings: BalanceSettings,
        placement: ExpertPlacement,
        planner: PlacementPlanner | None = None,
        recorder: LoadRecorder | None = None,
    ) -> None:
        self.settings, self.placement = settings, placement
        self._planner, self._recorder = planner, recorder
        self._planning = False
        self._moving: _Moving | None = None
        self._steps = self._unread = 0
        self._seen: _Seen | None = None
        self._totals = ExpertCounters()

    def begin(self) -> None:
        """New ranks have loaded `placement`: drops moves and window of the old ones, and cancels planning."""
        self._moving, self._planning = None, False
        self._steps = self._unread = 0
        if self._planner is not None:
            self._planner.close()

    def work(self) -> ExpertWork | None:
        """The moves and switches that ranks do before the next step."""
        if self._planning:
            self._take_decision()
        if self._moving is None:
            return None
        self._moving.sent = next(self._moving.works)
        return self._moving.sent

    def stepped(self, ranks: CountsExperts) -> None:
        """Call when the step with the last `work` has retired on all ranks."""
        self._commit()
        self._steps += 1
        self._unread += 1
        if self._steps == self.settings.interval - self.settings.window:
            self._read(ranks)
        elif self._steps >= self.settings.interval:
            self._steps = 0
            self._window_full(self._read(ranks).astype(np.float64))

    def finish(self, ranks: CountsExperts) -> None:
        """Records the counts of the unfinished window; call when the engine ends with healthy ranks."""
        if self._recorder is not None and self._unread:
            self._read(ranks)
        self.close()

    def close(self) -> None:
        """Cancels planning; safe to call twice."""
        if self._planner is not None:
            self._planner.close()

    def stats(self) -> ExpertStats:
        """Current counters and gauges."""
        seen = self._seen
        now = balance(self.placement, seen.loads).per_layer if seen is not None else ()
        return ExpertStats(
            layers=self.settings.layers,
            window=self.settings.window,
            window_steps=max(0, self._steps - (self.settings.interval - self.settings.window)),
            before=seen.before if seen is not None else (),
            now=now,
            layers_moving=0 if self._moving is None else self._moving.layers,
            **asdict(self._totals),
        )

    def _read(self, ranks: CountsExperts) -> IntArray:
        """Counts since the last call, which also go to the recorder, if there is one."""
        counts, steps, self._unread = ranks.expert_counts(), self._unread, 0
        if self._recorder is not None:
            try:
                self._recorder.add(counts, steps)
            except OSError as error:
                _log.error("expert statistics are not written to %s: %s", self._recorder.path, error.strerror or error)
        return counts

    def _window_full(self, loads: FloatArray) -> None:
        if not loads.any():
            return
        before = balance(self.placement, loads).per_layer
        self._seen = _Seen(loads, before)
        if self._planner is None or self._planning or self._moving is not None:
            return
        calm = [value is None or value >= self.settings.threshold for value in before]
        if all(calm):
            return
        wanted = np.where(np.array(calm)[:, None], 0.0, loads)
        self._totals.decisions += 1
        try:
            self._planner.start(wanted, self.placement)
        except (OSError, WeftError) as error:
            self._failed(error)
        else:
            self._planning = True

    def _take_decision(self) -> None:
        assert self._planner is not None and self._seen is not None
        try:
            plan = self._planner.poll()
            if plan is None:
                return
            self._planning = False
            target = self._worthwhile(plan, self._seen.loads)
        except WeftError as error:
            self._planning = False
            self._failed(error)
            return
        moved = int((target.moved(self.placement) > 0).sum())
        if moved:
            found = works(self.placement, target, self.settings.layers, self.settings.pace)
            self._moving = _Moving(target, found, moved)

    def _worthwhile(self, plan: ExpertPlacement, loads: FloatArray) -> ExpertPlacement:
        """The plan in the layers that it improves. WeftError: it does not fit this server, or moves too much."""
        moved = plan.moved(self.placement)
        if (moved > self.settings.most_moved).any():
            row = int(moved.argmax())
            raise WeftError(
                f"the plan changes {int(moved[row])} slots of layer {self.settings.layers[row]};"
                f" at most {self.settings.most_moved} may change"
            )
        old, new = balance(self.placement, loads).per_layer, balance(plan, loads).per_layer
        both = zip(old, new, strict=True)
        better = [before is not None and after is not None and after > before for before, after in both]
        table = np.where(np.array(better)[:, None], plan.phy2log, self.placement.phy2log)
        return ExpertPlacement(table, plan.experts, plan.ranks)

    def _failed(self, error: Exception) -> None:
        self._totals.failures += 1
        _log.error("rebalancing of experts failed, the placement stays: %s", error)

    def _commit(self) -> None:
        """Puts the work of the last step into force."""
        moving = self._moving
        if moving is None or moving.sent is None:
            return
        done, moving.sent = moving.sent, None
        settings = self.settings
        self._totals.bytes_moved += sum(settings.slot_bytes // move.parts for move in done.moves)
        for switch in done.switches:
            row = settings.layers.index(switch.layer)
            self._totals.slots_moved += self._switch(row, switch.experts)
            self._totals.layers_switched += 1
            moving.layers -= 1
        if not moving.layers:
            self._moving = None

    def _switch(self, row: int, experts: Sequence[int]) -> int:
        """The number of slots that changed."""
        table = self.placement.phy2log.copy()
        changed = int((table[row] != experts).sum())
        table[row] = experts
        self.placement = ExpertPlacement(table, self.placement.experts, self.placement.ranks)
        return changed
