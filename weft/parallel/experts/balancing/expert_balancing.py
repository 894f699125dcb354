"""Balancing of expert slots while serving: window, decision, moves, switch.

count rows per expert  ->  window full: read them, decide  ->  parts of slots move  ->  a layer switches

One object serves all engines of a server, one after the other. If ranks die, their moves are lost; new ranks begin with
the placement in force, which is the one that the old ranks had switched to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from msgspec.structs import asdict

from weft.base.errors import WeftError
from weft.base.log import get_logger
from weft.base.step.experts import ExpertWork
from weft.parallel.experts.balancing.balancer import LoadBalancer
from weft.parallel.experts.balancing.placement_planner import PlacementPlanner
from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.placement.transport import TransferRate, works
from weft.parallel.experts.statistics.counters import ExpertCounters, ExpertStats
from weft.parallel.experts.statistics.loads import FloatArray, IntArray
from weft.parallel.experts.statistics.metric import balance
from weft.parallel.experts.statistics.recorder import LoadRecorder

_log = get_logger(__name__)


class CountsExperts(Protocol):
    """The part of an executor that balancing needs."""

    def expert_counts(self) -> IntArray:
        """Rows that chose each expert since the last call, [layers with experts, experts], added up over the ranks."""


@runtime_checkable
class CountsExpertsLater(CountsExperts, Protocol):
    """An executor with several steps in flight."""

    def ask_expert_counts(self) -> None:
        """Asks ranks for what `expert_counts` gives next: of the steps that they were given before."""


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
    """A placement that is being installed: work left for later steps, and layers that have still to switch."""

    target: ExpertPlacement
    works: Iterator[ExpertWork]
    layers: int


@dataclass(slots=True)
class _Asked:
    """Counts that ranks were asked for: they are there when so many more steps have retired. `full`: of a window."""

    left: int
    steps: int
    full: bool


@dataclass(slots=True)
class _Seen:
    """The loads of the last full window, and their balance under the placement at its end."""

    loads: FloatArray
    before: tuple[float | None, ...] = field(default=())


class ExpertBalancing:
    """`placement` is in force: all ranks have switched to it. Call `work` before and `stepped` after every step, whose
    plan takes the work along; several may be in flight."""

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
        self._sent: deque[ExpertWork | None] = deque()
        """Work of the steps in flight."""
        self._asked: _Asked | None = None
        self._steps = self._unread = 0
        self._seen: _Seen | None = None
        self._totals = ExpertCounters()

    def begin(self) -> None:
        """New ranks have loaded `placement`: drops moves and window of the old ones, and cancels planning."""
        self._moving, self._planning, self._asked = None, False, None
        self._sent.clear()
        self._steps = self._unread = 0
        if self._planner is not None:
            self._planner.close()

    def work(self) -> ExpertWork | None:
        """The moves and switches that ranks do before the next step."""
        if self._planning:
            self._take_decision()
        self._sent.append(None if self._moving is None else next(self._moving.works, None))
        return self._sent[-1]

    def stepped(self, ranks: CountsExperts, in_flight: int = 0) -> None:
        """Call when a step has retired on all ranks. `in_flight`: steps that have not; their counts come with those of
        the steps before, without waiting for them."""
        self._commit()
        self._steps += 1
        self._unread += 1
        full = self._steps >= self.settings.interval
        begins = self._steps == self.settings.interval - self.settings.window
        if self._asked is not None:
            self._asked.left -= 1
            if full or begins or not self._asked.left:
                self._take_asked(ranks)
        if full:
            self._steps = 0
        if full or begins:
            self._count(ranks, in_flight, full)

    def finish(self, ranks: CountsExperts) -> None:
        """Records the counts of the unfinished window; call when the engine ends with healthy ranks."""
        self._take_asked(ranks)
        if self._recorder is not None and self._unread > 0:
            steps, self._unread = self._unread, 0
            self._read(ranks, steps)
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

    def _count(self, ranks: CountsExperts, in_flight: int, full: bool) -> None:
        """Counts of all steps that ranks were given; those in flight are counted when they are done."""
        steps, self._unread = self._unread + in_flight, -in_flight
        self._asked = _Asked(in_flight, steps, full)
        if in_flight and isinstance(ranks, CountsExpertsLater):
            ranks.ask_expert_counts()
        else:
            self._take_asked(ranks)

    def _take_asked(self, ranks: CountsExperts) -> None:
        if (asked := self._asked) is None:
            return
        self._asked = None
        counts = self._read(ranks, asked.steps)
        if asked.full:
            self._window_full(counts.astype(np.float64))

    def _read(self, ranks: CountsExperts, steps: int) -> IntArray:
        """Counts of so many steps, which also go to the recorder, if there is one."""
        counts = ranks.expert_counts()
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
        """Puts the work of the oldest step into force."""
        done, moving, settings = self._sent.popleft() if self._sent else None, self._moving, self.settings
        if done is None or moving is None:
            return
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
