"""Collectives between processes over torch's gloo: the backend that runs wherever torch does. CPU tensors only.

The ranks meet over the socket of `distributed/backend.py`. One process group per distinct group, made by every rank in
the same order, without torch's process-wide default group: two worlds can live in one process. Gloo only carries bytes
here; sums are made on each rank, in rank order.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from weft.base.errors import MismatchError, PeerError
from weft.compute.comm.backend import Address, RankEnd
from weft.compute.comm.base import Comm, Group
from weft.compute.comm.checks import (
    check_contiguous,
    check_groups,
    check_list,
    check_same_size,
    describe_call,
    member_groups,
    unknown_group,
)
from weft.compute.comm.distributed.backend import HOST
from weft.compute.comm.distributed.gloo_groups import Members, Work, bytes_of, process_group
from weft.compute.comm.distributed.peers import Peers, Store
from weft.compute.comm.sums import ordered_sum

_TEXT_BYTES = 256
_MOST_SENT = 8
"""Messages of a rank that are on their way at once."""
_dist: Any = torch.distributed  # torch's type stubs leave out half of what this file takes from it


class GlooComm(Comm):
    """One rank's end. A collective that raised PeerError leaves it unusable."""

    def __init__(
        self,
        rank: int,
        world: int,
        groups: Sequence[Group],
        *,
        port: int,
        host: str = HOST,
        own: str = HOST,
        listen_fd: int | None = None,
        timeout: float = 30.0,
        debug: bool = False,
    ) -> None:
        """Returns when all ranks of each of this rank's groups have connected.

        listen_fd: rank 0's copy of the socket that listens at `port` of `host`; stays the caller's. own: the address
        that this rank's connections are bound to. timeout: seconds
        that the start and each collective may take. debug: members compare call, shapes and sizes ahead of each
        collective; without it a difference in sizes ends in an error of gloo's, or ends the process.
        """
        if (rank == 0) != (listen_fd is not None):
            raise ValueError("the listening socket belongs to rank 0, and to no other rank")
        self.rank = rank
        self.world = world
        self._debug = debug
        self._timeout = timeout
        self._broken = ""
        self._sent: deque[tuple[Work, Tensor]] = deque()
        """Messages on their way, and their memory."""
        places = member_groups(rank, check_groups(world, groups))
        try:
            store = _store(rank, world, (host, port), listen_fd, timeout)
            self._peers = Peers(store, rank, world)
            self._groups = {
                group: Members(group, position, process_group(store, index, position, len(group), timeout, own))
                for group, (index, position) in places.items()
            }
        except RuntimeError as error:
            why = f"rank {rank} of {world}: no rendezvous within {timeout:g} s: {_first_line(error)}"
            raise PeerError(why) from error

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        check_contiguous("all_reduce", "x", x, group)
        members = self._enter("all_reduce", group, x, (x,), (), ())
        if x.numel():
            gathered = x.new_empty(len(group) * x.numel())
            self._run(members, lambda: members.gather(gathered, x))
            x.view(-1).copy_(ordered_sum(gathered.chunk(len(group))))
        return x

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        check_contiguous("all_gather", "x", x, group)
        check_list("all_gather", "outs", outs, group, x)
        members = self._enter("all_gather", group, x, (), [x] * len(group), outs)
        check_same_size("all_gather", group, x, outs[members.position])
        longest = max(out.numel() for out in outs)
        if not longest:
            return
        padded = x.new_zeros(longest)
        padded[: x.numel()] = x.view(-1)
        gathered = x.new_empty(len(group) * longest)
        self._run(members, lambda: members.gather(gathered, padded))
        for out, part in zip(outs, gathered.chunk(len(group)), strict=True):
            out.copy_(part[: out.numel()].view(out.shape))

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        check_list("reduce_scatter", "xs", xs, group, out)
        check_contiguous("reduce_scatter", "out", out, group)
        members = self._enter("reduce_scatter", group, out, xs, xs, [out] * len(group))
        check_same_size("reduce_scatter", group, xs[members.position], out)
        addends = [out.new_empty(out.shape) for _ in group]
        self._exchange(members, xs, addends)
        if out.numel():
            out.copy_(ordered_sum(addends))

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        check_list("all_to_all", "xs", xs, group)
        check_list("all_to_all", "outs", outs, group, xs[0])
        members = self._enter("all_to_all", group, xs[0], (), xs, outs)
        check_same_size("all_to_all", group, xs[members.position], outs[members.position])
        self._exchange(members, xs, outs)

    def barrier(self, group: Group) -> None:
        members = self._enter("barrier", group, None, (), (), ())
        signs = torch.empty(len(group), dtype=torch.uint8)
        self._run(members, lambda: members.gather(signs, torch.zeros(1, dtype=torch.uint8)))

    def send(self, x: Tensor, peer: int) -> None:
        """A copy goes on its way; gloo hands it over when the peer receives."""
        members = self._enter_pair("send", x, peer)
        while self._sent and (self._sent[0][0].is_completed() or len(self._sent) >= _MOST_SENT):
            self._run(members, lambda: self._sent[0][0])
            self._sent.popleft()
        copy = x.clone()
        self._sent.append((members.send(copy, peer), copy))

    def recv(self, out: Tensor, peer: int) -> None:
        members = self._enter_pair("recv", out, peer)
        self._run(members, lambda: members.recv(out, peer))

    def _enter_pair(self, kind: str, x: Tensor, peer: int) -> Members:
        """Sizes are not compared: only one of the two may be there."""
        group, debug = (min(self.rank, peer), max(self.rank, peer)), self._debug
        check_contiguous(kind, "x", x, group)
        self._debug = False
        try:
            return self._enter(kind, group, x, (), (), ())
        finally:
            self._debug = debug

    def close(self) -> None:
        """Gives the connections back."""
        self._hang_up()
        self._broken = self._broken or f"rank {self.rank} has closed its end"
        self._peers.close()

    def _hang_up(self) -> None:
        """Closes every connection, which ends the other ranks' waits for this one."""
        for members in self._groups.values():
            members.close()

    def _exchange(self, members: Members, xs: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        """outs[i] = member i's xs for this rank, by one all_to_all of bytes."""
        sent = torch.cat([bytes_of(x) for x in xs])
        splits = [out.nbytes for out in outs]
        received = torch.empty(sum(splits), dtype=torch.uint8)
        self._run(members, lambda: members.exchange(received, sent, splits, [x.nbytes for x in xs]))
        for out, part in zip(outs, torch.split(received, splits), strict=True):
            bytes_of(out).copy_(part)

    def _enter(
        self,
        kind: str,
        group: Group,
        like: Tensor | None,
        same: Sequence[Tensor],
        sent: Sequence[Tensor],
        received: Sequence[Tensor],
    ) -> Members:
        """The group; in debug mode compares `same` by shape, and what goes from `sent` to `received` by size."""
        if self._broken:
            raise PeerError(f"{kind} over {group}: this rank's comm has ended: {self._broken}")
        members = self._groups.get(group)
        if members is None:
            raise unknown_group(self.rank, group, tuple(self._groups))
        if like is not None and like.device.type != "cpu":
            raise ValueError(f"{kind} over {group}: {like.device}; this backend takes tensors on cpu")
        members.calls += 1
        members.kind = kind
        if self._debug:
            self._compare(members, describe_call(kind, like, same), sent, received)
        return members

    def _compare(self, members: Members, call: str, sent: Sequence[Tensor], received: Sequence[Tensor]) -> None:
        """Members exchange what they call, and the sizes that they send and expect."""
        text = f"call {members.calls}, {call}"
        sizes = torch.zeros(2, len(members.group), dtype=torch.int64)
        for row, tensors in enumerate((sent, received)):
            for position, tensor in enumerate(tensors):
                sizes[row, position] = tensor.nbytes
        padded = text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
        mine = torch.cat([torch.frombuffer(bytearray(padded), dtype=torch.uint8), bytes_of(sizes)])
        calls = mine.new_empty(len(members.group), len(mine))
        self._run(members, lambda: members.gather(calls.view(-1), mine))
        self._judge(members, calls)

    def _judge(self, members: Members, calls: Tensor) -> None:
        texts = [bytes(row[:_TEXT_BYTES].tolist()).rstrip(b"\0").decode() for row in calls]
        sizes = calls[:, _TEXT_BYTES:].contiguous().view(torch.int64).view(len(calls), 2, len(calls))
        uneven = not torch.equal(sizes[:, 0], sizes[:, 1].T)
        if len(set(texts)) == 1 and not uneven:
            return
        described = "; ".join(
            f"rank {rank}: {text}" + (f", sends {row[0].tolist()}, expects {row[1].tolist()} bytes" if uneven else "")
            for rank, text, row in zip(members.group, texts, sizes, strict=True)
        )
        self._broken = f"the ranks of {members.group} disagree: {described}"
        raise MismatchError(self._broken)

    def _run(self, members: Members, start: Callable[[], Work]) -> None:
        try:
            start().wait()
        except RuntimeError as error:
            culprit = self._peers.culprit(members.group, self._hang_up) or f"one of {members.group} is gone"
            where = f"rank {self.rank} was in {members.kind} over {members.group}, call {members.calls}"
            self._broken = f"{culprit}; {where} ({_first_line(error)})"
            raise PeerError(self._broken) from error


def make(end: RankEnd) -> Comm:
    """For `Gloo.make`: the end over the listening socket that was inherited."""
    host, own = HOST, HOST
    if end.peers:
        (host, port), own = end.peers[0], end.address
    else:
        with socket.socket(fileno=os.dup(end.fds[0])) as listening:
            port = listening.getsockname()[1]
    return GlooComm(
        end.rank,
        end.world,
        end.groups,
        port=port,
        host=host,
        own=own,
        listen_fd=end.fds[0] if end.rank == 0 else None,
        timeout=end.limit_s,
        debug=end.debug,
    )


def _store(rank: int, world: int, at: Address, listen_fd: int | None, timeout: float) -> Store:
    limit = timedelta(seconds=timeout)
    if listen_fd is None:
        store: Store = _dist.TCPStore(*at, world, False, limit, wait_for_workers=False)
        return store
    copy = os.dup(listen_fd)  # the store closes what it is given
    store = _dist.TCPStore(*at, world, True, limit, wait_for_workers=False, master_listen_fd=copy)
    return store


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
