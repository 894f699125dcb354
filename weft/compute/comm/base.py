"""The seam between ranks: five collectives over a tuple of ranks, and messages from one rank to another.

All sizes may differ between members and may be zero. Sums are added in the order of the group's ranks, in fp32 for
fp16/bf16 inputs (rounded once at the end), so that a row's result never depends on its place in the buffer.
Buffers are contiguous tensors of one dtype and device; `outs[i]` may be views into one larger tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

Group = tuple[int, ...]
"""Ascending ranks. A group of one never reaches a backend: callers treat it as a local copy."""


class Comm(ABC):
    """One rank's end. `groups` are all distinct groups of the world, in one global order, known at construction."""

    rank: int
    world: int

    @abstractmethod
    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        """The ordered sum of every member's x; may reuse x's memory."""

    @abstractmethod
    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        """outs[i] = x of the group's member i, this rank's own included."""

    @abstractmethod
    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        """xs[i] is this rank's addend for member i; out = ordered sum over members of their addend for this rank."""

    @abstractmethod
    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        """outs[i] = what member i has in its xs for this rank; xs[own position] goes to outs[own position]."""

    @abstractmethod
    def barrier(self, group: Group) -> None:
        """Returns once every member has entered."""

    @abstractmethod
    def send(self, x: Tensor, peer: int) -> None:
        """Puts x into the mailbox of the pair (this rank, `peer`); x may be overwritten on return. Waits only where the
        mailbox is full: it holds as many messages as steps can be in flight. The pair must be a group of the world."""

    @abstractmethod
    def recv(self, out: Tensor, peer: int) -> None:
        """out = the oldest message that `peer` sent to this rank and that was not taken yet; waits for it. PeerError:
        its size or dtype is another one."""

    @abstractmethod
    def close(self) -> None:
        """Gives memory and descriptors back; safe to call twice."""
