"""What ranks of a lockstep world wait in: a collective of a group, and messages between two ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from greenlet import greenlet
from torch import Tensor

from weft.base.errors import MismatchError
from weft.base.plural import numbered
from weft.compute.comm.base import Group

Buffers = tuple[Sequence[Tensor], Sequence[Tensor]]
"""What a member sends and where it receives."""


class Meeting:
    """One group's collective in the making."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.calls = 0
        self.clear()

    def clear(self) -> None:
        self.arrived = 0
        self.kinds: list[str] = [""] * len(self.group)
        self.buffers: list[Buffers] = [((), ())] * len(self.group)
        self.waiting: list[greenlet] = []

    def describe(self, rank: int) -> str:
        missing = [r for r, kind in zip(self.group, self.kinds, strict=True) if not kind]
        kind = self.kinds[self.group.index(rank)]
        return f"waits in {kind} over {self.group}, call {self.calls + 1}, for {numbered(missing)}"

    def check(self, complete: Callable[[Meeting], None]) -> None:
        """All members call the same thing, with shapes that fit."""
        if any(kind != self.kinds[0] for kind in self.kinds):
            raise self.disagreement("they are in different collectives")
        complete(self)

    def disagreement(self, why: str) -> MismatchError:
        calls = "; ".join(
            f"rank {rank}: {self.kinds[i]} {shapes(self.buffers[i][0])} -> {shapes(self.buffers[i][1])}"
            for i, rank in enumerate(self.group)
        )
        return MismatchError(
            f"{numbered(self.group)} disagree at call {self.calls + 1} over {self.group}: {why}. {calls}"
        )


class LockstepMailbox:
    """Messages on their way from one rank to another, oldest first; `waiting`: greenlets that wait for one, or for
    room."""

    def __init__(self, sender: int, receiver: int, boxes: int) -> None:
        """`boxes`: messages that there is room for."""
        self.sender, self.receiver, self._boxes = sender, receiver, boxes
        self.messages: deque[Tensor] = deque()
        self.waiting: list[greenlet] = []

    @property
    def has_room(self) -> bool:
        """Whether another message fits in."""
        return len(self.messages) < self._boxes

    def put(self, x: Tensor) -> None:
        """A copy of x is the last message."""
        self.messages.append(x.clone())

    def take(self, out: Tensor) -> None:
        """out = the oldest message. PeerError: it has another shape or dtype."""
        message = self.messages.popleft()
        if message.shape != out.shape or message.dtype != out.dtype:
            found = f"sent {shapes((message,))}, expected {shapes((out,))}"
            raise MismatchError(f"ranks {self.sender} and {self.receiver} disagree over a message: {found}")
        out.copy_(message)

    def describe(self, rank: int) -> str:
        """What `rank`, one of the two, waits for."""
        if rank == self.receiver:
            return f"waits in recv for a message of rank {self.sender}"
        return f"waits in send: rank {self.receiver} has not taken {len(self.messages)} messages"


def shapes(tensors: Sequence[Tensor]) -> str:
    """Dtypes and shapes, for people."""
    names = [f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in tensors]
    return "(" + ", ".join(names) + ")"
