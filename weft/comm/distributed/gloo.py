"""Collectives between processes over torch's gloo: the backend that runs wherever torch does. CPU tensors only.

The ranks meet over the socket of `distributed/backend.py`. One process group per distinct group, made by every rank in
the same order, without torch's process-wide default group: two worlds can live in one process. Gloo only carries bytes
here; sums are made on each rank, in rank order.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor

from weft.comm.backend import Address, RankEnd
from weft.comm.base import Comm, Group
from weft.comm.checks import (
    check_contiguous,
    check_groups,
    check_list,
    check_same_size,
    describe_call,
    member_groups,
    unknown_group,
)
from weft.comm.distributed.backend import HOST
from weft.comm.distributed.peers import Peers, Store
from weft.comm.sums import ordered_sum
from weft.errors import PeerError

_TEXT_BYTES = 256
_dist: Any = torch.distributed  # torch's type stubs leave out half of what this file takes from it


class Work(Protocol):
    """A collective on its way."""

    def wait(self) -> object: ...


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
        places = member_groups(rank, check_groups(world, groups))
        try:
            store = _store(rank, world, (host, port), listen_fd, timeout)
            self._peers = Peers(store, rank, world)
            self._groups = {
                group: _Members(group, position, _process_group(store, index, position, len(group), timeout, own))
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

    def close(self) -> None:
        """Gives the connections back."""
        self._hang_up()
        self._broken = self._broken or f"rank {self.rank} has closed its end"
        self._peers.close()

    def _hang_up(self) -> None:
        """Closes every connection, which ends the other ranks' waits for this one."""
        for members in self._groups.values():
            members.close()

    def _exchange(self, members: _Members, xs: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        """outs[i] = member i's xs for this rank, by one all_to_all of bytes."""
        sent = torch.cat([_bytes(x) for x in xs])
        splits = [out.nbytes for out in outs]
        received = torch.empty(sum(splits), dtype=torch.uint8)
        self._run(members, lambda: members.exchange(received, sent, splits, [x.nbytes for x in xs]))
        for out, part in zip(outs, torch.split(received, splits), strict=True):
            _bytes(out).copy_(part)

    def _enter(
        self,
        kind: str,
        group: Group,
        like: Tensor | None,
        same: Sequence[Tensor],
        sent: Sequence[Tensor],
        received: Sequence[Tensor],
    ) -> _Members:
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

    def _compare(self, members: _Members, call: str, sent: Sequence[Tensor], received: Sequence[Tensor]) -> None:
        """Members exchange what they call, and the sizes that they send and expect."""
        text = f"call {members.calls}, {call}"
        sizes = torch.zeros(2, len(members.group), dtype=torch.int64)
        for row, tensors in enumerate((sent, received)):
            for position, tensor in enumerate(tensors):
                sizes[row, position] = tensor.nbytes
        padded = text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
        mine = torch.cat([torch.frombuffer(bytearray(padded), dtype=torch.uint8), _bytes(sizes)])
        calls = mine.new_empty(len(members.group), len(mine))
        self._run(members, lambda: members.gather(calls.view(-1), mine))
        self._judge(members, calls)

    def _judge(self, members: _Members, calls: Tensor) -> None:
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
        raise PeerError(self._broken)

    def _run(self, members: _Members, start: Callable[[], Work]) -> None:
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


class _Members:
    """One group's process group and this rank's position in it."""

    def __init__(self, group: Group, position: int, process_group: Any) -> None:
        self.group = group
        self.position = position
        self.calls = 0
        self.kind = ""
        self._process_group = process_group

    def close(self) -> None:
        """The process group ends with its last reference."""
        self._process_group = None

    def gather(self, outs: Tensor, x: Tensor) -> Work:
        """outs = every member's x, all of one size, one after the other."""
        work: Work = self._process_group._allgather_base(_bytes(outs), _bytes(x))
        return work

    def exchange(self, received: Tensor, sent: Tensor, received_sizes: list[int], sent_sizes: list[int]) -> Work:
        """Bytes, cut by member."""
        options = _dist.AllToAllOptions()
        work: Work = self._process_group.alltoall_base(received, sent, received_sizes, sent_sizes, options)
        return work


def _bytes(x: Tensor) -> Tensor:
    """A flat view of a contiguous tensor's bytes: gloo knows fewer dtypes than we send."""
    return x.view(-1).view(torch.uint8)


def _store(rank: int, world: int, at: Address, listen_fd: int | None, timeout: float) -> Store:
    limit = timedelta(seconds=timeout)
    if listen_fd is None:
        store: Store = _dist.TCPStore(*at, world, False, limit, wait_for_workers=False)
        return store
    copy = os.dup(listen_fd)  # the store closes what it is given
    store = _dist.TCPStore(*at, world, True, limit, wait_for_workers=False, master_listen_fd=copy)
    return store


def _process_group(store: Store, index: int, position: int, size: int, timeout: float, own: str) -> Any:
    options = _dist.ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=timeout)
    options._devices = [_dist.ProcessGroupGloo.create_device(hostname=own)]
    return _dist.ProcessGroupGloo(_dist.PrefixStore(f"group {index}", store), position, size, options)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
