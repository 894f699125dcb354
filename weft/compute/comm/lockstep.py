"""All ranks of a world as greenlets of one thread: the answer key of the backends, and the proof of layouts.

The last member to reach a collective moves the data of all. So each collective is compared over its members, shapes
included, and a world in which no rank can go on is seen at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor

from weft.base.errors import DeadlockError
from weft.base.plural import numbered
from weft.compute.comm.backend import RankEnd
from weft.compute.comm.base import Comm, Group
from weft.compute.comm.checks import check_contiguous, check_groups, check_list, unknown_group
from weft.compute.comm.lockstep_waits import LockstepMailbox, Meeting, shapes
from weft.compute.comm.sums import ordered_sum

T = TypeVar("T")


class LockstepWorld:
    """`run` may be called again and again; every call starts one greenlet per rank and ends when all have ended.

    A run is under `torch.inference_mode`: a rank that entered it alone would take it away from the others on leaving.
    """

    def __init__(self, world: int, groups: Sequence[Group], boxes: int = 2) -> None:
        """`boxes`: messages that each mailbox has room for."""
        self.world = world
        self.groups = check_groups(world, groups)
        self._meetings = {group: Meeting(group) for group in self.groups}
        pairs = [group for group in self.groups if len(group) == 2]
        self.mailboxes = {ends: LockstepMailbox(*ends, boxes) for pair in pairs for ends in (pair, pair[::-1])}
        """By sender and receiver. What lies in them stays there from run to run."""
        self.comms = tuple(LockstepComm(self, rank, self._meetings) for rank in range(world))
        self._ready: deque[greenlet] = deque()
        self._hub: greenlet | None = None

    def run(self, fns: Sequence[Callable[[LockstepComm], T]]) -> list[T]:
        """fns[r] is rank r's work; the results in rank order.

        A rank's exception ends the other ranks and is raised with a note naming the rank. DeadlockError when every
        rank left waits; PeerError when the members of a group call different collectives.
        """
        if len(fns) != self.world:
            raise ValueError(f"{len(fns)} functions for a world of {self.world}")
        if self._hub is not None:
            raise ValueError("this world is running already")
        results: dict[int, T] = {}
        ranks = [greenlet(_call_into(results, rank, fn, self.comms[rank])) for rank, fn in enumerate(fns)]
        self._ready.extend(ranks)
        self._hub = getcurrent()
        try:
            with torch.inference_mode():
                self._run_all(ranks)
        finally:
            self._hub = None
        return [results[rank] for rank in range(self.world)]

    def _run_all(self, ranks: Sequence[greenlet]) -> None:
        for comm in self.comms:
            comm.waiting_in = None
        for meeting in self._meetings.values():
            meeting.calls = 0
        try:
            while self._ready:
                self._ready.popleft().switch()
            if not all(one.dead for one in ranks):
                raise self._deadlock(ranks)
        finally:
            self._ready.clear()
            for meeting in self._meetings.values():
                meeting.clear()
            for box in self.mailboxes.values():
                box.waiting.clear()
            for one in ranks:
                if not one.dead:
                    one.throw(GreenletExit)

    def block(self) -> None:
        """Another rank's turn; returns when this rank's collective is done, or it is to look again.

        Ranks are started by the hub alone: the frames below a greenlet's first one are those of its starter, and
        must stay in place, or the unwinder that torch runs for its own C++ errors walks into another rank's stack.
        """
        if self._ready and self._ready[0]:
            self._ready.popleft().switch()
        elif self._hub is not None:
            self._hub.switch()

    def wake_all(self, box: LockstepMailbox) -> None:
        """What waits for a message or for room looks again."""
        waiting, box.waiting = box.waiting, []
        self._ready.extend(waiting)

    def wake(self, waiting: greenlet) -> None:
        """The greenlet's collective is done: it runs when its turn comes."""
        self._ready.append(waiting)

    def _deadlock(self, ranks: Sequence[greenlet]) -> DeadlockError:
        states = []
        for rank, one in enumerate(ranks):
            meeting = self.comms[rank].waiting_in
            if not one.dead and meeting is not None:
                states.append(f"rank {rank} {meeting.describe(rank)}")
        ended = [rank for rank, one in enumerate(ranks) if one.dead]
        if ended:
            states.append(f"{numbered(ended)} ended")
        return DeadlockError("no rank can go on: " + "; ".join(states))


def _call_into(
    results: dict[int, T], rank: int, fn: Callable[[LockstepComm], T], comm: LockstepComm
) -> Callable[[], None]:
    def run_rank() -> None:
        try:
            results[rank] = fn(comm)
        except Exception as error:
            error.add_note(f"in rank {rank} of {comm.world}")
            raise

    return run_rank


class LockstepComm(Comm):
    """One rank's end of a `LockstepWorld`; usable only inside its `run`."""

    def __init__(self, world: LockstepWorld, rank: int, meetings: dict[Group, Meeting]) -> None:
        self.rank = rank
        self.world = world.world
        self.waiting_in: Meeting | LockstepMailbox | None = None
        self._lockstep = world
        self._meetings = {group: (one, group.index(rank)) for group, one in meetings.items() if rank in group}

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        check_contiguous("all_reduce", "x", x, group)
        own = (x,)
        self._meet("all_reduce", own, own, group, _all_reduce)
        return x

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        check_contiguous("all_gather", "x", x, group)
        check_list("all_gather", "outs", outs, group, x)
        self._meet("all_gather", (x,), outs, group, _all_gather)

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        check_list("reduce_scatter", "xs", xs, group, out)
        check_contiguous("reduce_scatter", "out", out, group)
        self._meet("reduce_scatter", xs, (out,), group, _reduce_scatter)

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        check_list("all_to_all", "xs", xs, group)
        check_list("all_to_all", "outs", outs, group, xs[0])
        self._meet("all_to_all", xs, outs, group, _all_to_all)

    def barrier(self, group: Group) -> None:
        self._meet("barrier", (), (), group, _barrier)

    def send(self, x: Tensor, peer: int) -> None:
        box = self._box(self.rank, peer)
        self._wait(box, lambda: box.has_room)
        box.put(x)
        self._lockstep.wake_all(box)

    def recv(self, out: Tensor, peer: int) -> None:
        box = self._box(peer, self.rank)
        self._wait(box, lambda: bool(box.messages))
        box.take(out)
        self._lockstep.wake_all(box)

    def _box(self, sender: int, receiver: int) -> LockstepMailbox:
        found = self._lockstep.mailboxes.get((sender, receiver))
        if found is None:
            raise unknown_group(self.rank, (min(sender, receiver), max(sender, receiver)), tuple(self._meetings))
        return found

    def _wait(self, box: LockstepMailbox, ready: Callable[[], bool]) -> None:
        while not ready():
            box.waiting.append(getcurrent())
            self.waiting_in = box
            self._lockstep.block()
            self.waiting_in = None

    def close(self) -> None:
        """Nothing to give back."""

    def _meet(
        self,
        kind: str,
        sent: Sequence[Tensor],
        received: Sequence[Tensor],
        group: Group,
        complete: Callable[[Meeting], None],
    ) -> None:
        known = self._meetings.get(group)
        if known is None:
            raise unknown_group(self.rank, group, tuple(self._meetings))
        meeting, position = known
        meeting.kinds[position] = kind
        meeting.buffers[position] = (sent, received)
        meeting.arrived += 1
        if meeting.arrived < len(group):
            meeting.waiting.append(getcurrent())
            self.waiting_in = meeting
            self._lockstep.block()
            self.waiting_in = None
            return
        meeting.check(complete)
        for waiting in meeting.waiting:
            self._lockstep.wake(waiting)
        meeting.calls += 1
        meeting.clear()


def _all_reduce(meeting: Meeting) -> None:
    xs = [sent[0] for sent, _ in meeting.buffers]
    _same(meeting, zip(xs[1:], xs[:-1], strict=True))
    if xs[0].numel():
        total = ordered_sum(xs)
        for x in xs:
            x.copy_(total)


def _all_gather(meeting: Meeting) -> None:
    xs = [sent[0] for sent, _ in meeting.buffers]
    pairs = [pair for _, outs in meeting.buffers for pair in zip(outs, xs, strict=True)]
    _move(meeting, pairs)


def _reduce_scatter(meeting: Meeting) -> None:
    for i, (_, received) in enumerate(meeting.buffers):
        addends = [sent[i] for sent, _ in meeting.buffers]
        _same(meeting, [(addend, received[0]) for addend in addends])
        if received[0].numel():
            received[0].copy_(ordered_sum(addends))


def _all_to_all(meeting: Meeting) -> None:
    pairs = [
        (outs[j], meeting.buffers[j][0][i]) for i, (_, outs) in enumerate(meeting.buffers) for j in range(len(outs))
    ]
    _move(meeting, pairs)


def _barrier(meeting: Meeting) -> None:
    pass


def _move(meeting: Meeting, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    _same(meeting, pairs)
    full = [pair for pair in pairs if pair[0].numel()]
    if full:
        torch._foreach_copy_([out for out, _ in full], [x for _, x in full])


def _same(meeting: Meeting, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for one, other in pairs:
        fits = one.shape == other.shape or not (one.numel() or other.numel())
        if not fits or one.dtype != other.dtype:
            raise meeting.disagreement(f"{shapes((one,))} against {shapes((other,))}")


def make(end: RankEnd) -> Comm:
    """For `SingleRank.make`: a world of one rank, which calls no collective."""
    return LockstepWorld(end.world, end.groups).comms[end.rank]
