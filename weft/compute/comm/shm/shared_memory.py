"""Collectives between processes of one machine, over a `Region` and the C++ library `comm`. CPU tensors only.

The parent creates the region and hands its descriptor to each rank's process (inherited or passed over a socket); the
rank opens it here. A rank sleeps while it waits, after a short spin; it wakes with an error naming the rank when the
parent marks one dead, when a rank gives up, and at its own time limit. Where there is no library this backend refuses
and says why (`missing_reason("comm")`); the launcher then takes gloo.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weft.base.errors import MismatchError, PeerError
from weft.compute.comm.backend import RankEnd
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
from weft.compute.comm.shm.native_comm import DTYPE_NAMES, TEXT_BYTES, explain_failure, is_mismatch, open_library
from weft.compute.comm.shm.region import Region
from weft.compute.native.runtime_records import CommRecord

_DTYPES: dict[torch.dtype, int] = {getattr(torch, name): number for number, name in enumerate(DTYPE_NAMES)}


class SharedMemoryComm(Comm):
    """One rank's end. Not for two threads at once; a collective that raised PeerError leaves it unusable."""

    @staticmethod
    def create(world: int, groups: Sequence[Group], *, debug: bool = False) -> Region:
        """In the parent: the region for these groups (`Region.create` has the finer settings)."""
        return Region.create(world, check_groups(world, groups), debug=debug)

    def __init__(self, region: Region, rank: int, *, timeout: float = 30.0) -> None:
        """Maps the region; its descriptor may be closed afterwards. `timeout`: seconds that one wait may take."""
        info = region.info()
        if not 0 <= rank < info.world:
            raise ValueError(f"rank {rank} is none of the region's 0..{info.world - 1}")
        self.rank = rank
        self.world = info.world
        self._debug = info.debug
        places = member_groups(rank, info.groups)
        self._groups = {group: _Lists(index, position, group) for group, (index, position) in places.items()}
        self._broken = ""
        self._timeout = timeout
        self._library = open_library()
        self._handle: int | None = self._library.weft_comm_open(region.fd, region.size, rank, int(timeout * 1000))
        if not self._handle:
            raise ValueError(f"rank {rank} cannot map the shared region: {region.size} bytes, descriptor {region.fd}")

    def connect(self, links: Mapping[int, socket.socket], host_of: Sequence[int]) -> None:
        """Groups whose members are on several hosts call over `links` from now on, which are this object's to close.
        `host_of`: the host of each rank of the world. ValueError: such a group has a member without a link."""
        numbers = [links[rank].detach() if rank in links else -1 for rank in range(self.world)]
        fds, hosts = (ctypes.c_int32 * self.world)(*numbers), (ctypes.c_uint32 * self.world)(*host_of)
        code = self._library.weft_comm_connect(self._handle, fds, hosts)
        if code < 0:
            raise PeerError(f"rank {self.rank}: the system has no thread for messages of ranks of other hosts")
        if code:
            raise ValueError(f"rank {self.rank} has no connection to rank {code - 1}, a member of one of its groups")

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        check_contiguous("all_reduce", "x", x, group)
        lists = self._enter("all_reduce", group, x, (x,))
        code = self._library.weft_comm_all_reduce(self._handle, lists.index, x.data_ptr(), x.numel(), _DTYPES[x.dtype])
        self._leave(code, "all_reduce", lists)
        return x

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        check_contiguous("all_gather", "x", x, group)
        check_list("all_gather", "outs", outs, group, x)
        lists = self._enter("all_gather", group, x, ())
        check_same_size("all_gather", group, x, outs[lists.position])
        lists.receive(outs)
        code = self._library.weft_comm_all_gather(
            self._handle, lists.index, x.data_ptr(), lists.outs, lists.received, _DTYPES[x.dtype]
        )
        self._leave(code, "all_gather", lists)

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        check_list("reduce_scatter", "xs", xs, group, out)
        check_contiguous("reduce_scatter", "out", out, group)
        lists = self._enter("reduce_scatter", group, out, xs)
        check_same_size("reduce_scatter", group, xs[lists.position], out)
        lists.send(xs)
        code = self._library.weft_comm_reduce_scatter(
            self._handle, lists.index, lists.xs, lists.sent, out.data_ptr(), _DTYPES[out.dtype]
        )
        self._leave(code, "reduce_scatter", lists)

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        check_list("all_to_all", "xs", xs, group)
        check_list("all_to_all", "outs", outs, group, xs[0])
        lists = self._enter("all_to_all", group, xs[0], ())
        check_same_size("all_to_all", group, xs[lists.position], outs[lists.position])
        lists.send(xs)
        lists.receive(outs)
        code = self._library.weft_comm_all_to_all(
            self._handle, lists.index, lists.xs, lists.sent, lists.outs, lists.received, _DTYPES[xs[0].dtype]
        )
        self._leave(code, "all_to_all", lists)

    def barrier(self, group: Group) -> None:
        lists = self._enter("barrier", group, None, ())
        self._leave(self._library.weft_comm_barrier(self._handle, lists.index), "barrier", lists)

    def send(self, x: Tensor, peer: int) -> None:
        check_contiguous("send", "x", x, self._pair(peer))
        lists = self._enter("send", self._pair(peer), x, ())
        code = self._library.weft_comm_send(self._handle, lists.index, x.data_ptr(), x.nbytes, _DTYPES[x.dtype])
        self._leave(code, "send", lists)

    def recv(self, out: Tensor, peer: int) -> None:
        check_contiguous("recv", "out", out, self._pair(peer))
        lists = self._enter("recv", self._pair(peer), out, ())
        code = self._library.weft_comm_recv(self._handle, lists.index, out.data_ptr(), out.nbytes, _DTYPES[out.dtype])
        self._leave(code, "recv", lists)

    def _pair(self, peer: int) -> Group:
        return min(self.rank, peer), max(self.rank, peer)

    @property
    def end(self) -> tuple[CommRecord, Mapping[Group, tuple[int, int]]]:
        """What a step program calls instead of these methods, and each group's number and this rank's place in it."""
        calls = (getattr(self._library, f"weft_comm_{name}") for name in CommRecord.EXCHANGES)
        addresses = (ctypes.cast(call, ctypes.c_void_p).value for call in calls)
        groups = {group: (lists.index, lists.position) for group, lists in self._groups.items()}
        return CommRecord(self._handle, *addresses), groups

    @property
    def watched(self) -> bool:
        """Whether every call says its shapes first, which a step program does not."""
        return self._debug

    def fail(self, code: int, kind: str, group: Group) -> None:
        """Raises PeerError for the code that a call of `end` gave."""
        self._leave(code, kind, self._groups[group])

    def close(self) -> None:
        """Unmaps the region; a rank that still waits for this one in a collective gets an error."""
        handle, self._handle = self._handle, None
        if handle:
            self._library.weft_comm_close(handle)

    def _enter(self, kind: str, group: Group, like: Tensor | None, same: Sequence[Tensor]) -> _Lists:
        """Refuses what C++ could not survive. `same`: tensors whose shapes are the same on every member."""
        if not self._handle:
            raise ValueError(f"{kind} over {group}: rank {self.rank} has closed its end")
        if self._broken:
            raise PeerError(f"{kind} over {group}: an earlier collective failed: {self._broken}")
        lists = self._groups.get(group)
        if lists is None:
            raise unknown_group(self.rank, group, tuple(self._groups))
        if like is not None and (like.dtype not in _DTYPES or like.device.type != "cpu"):
            legal = ", ".join(str(dtype) for dtype in _DTYPES)
            raise ValueError(f"{kind} over {group}: {like.dtype} on {like.device}; this backend takes {legal} on cpu")
        if self._debug:
            self._library.weft_comm_describe(self._handle, describe_call(kind, like, same).encode()[: TEXT_BYTES - 1])
        return lists

    def _leave(self, code: int, kind: str, lists: _Lists) -> None:
        if code:
            failure = self._library.weft_comm_failure(self._handle).contents
            self._broken = explain_failure(failure, kind, lists.group, self.rank, self._timeout)
            raise (MismatchError if is_mismatch(failure) else PeerError)(self._broken)


def make(end: RankEnd) -> Comm:
    """For `SharedMemory.make`: the end over the region that was inherited."""
    return SharedMemoryComm(Region.of_fd(end.fds[0]), end.rank, timeout=end.limit_s)


class _Lists:
    """One group's number, and the argument arrays of its calls, made once."""

    def __init__(self, index: int, position: int, group: Group) -> None:
        self.index, self.position, self.group = index, position, group
        self.xs = (ctypes.c_void_p * len(group))()
        self.outs = (ctypes.c_void_p * len(group))()
        self.sent = (ctypes.c_uint64 * len(group))()
        self.received = (ctypes.c_uint64 * len(group))()

    def send(self, xs: Sequence[Tensor]) -> None:
        self.xs[:] = [x.data_ptr() for x in xs]
        self.sent[:] = [x.nbytes for x in xs]

    def receive(self, outs: Sequence[Tensor]) -> None:
        self.outs[:] = [out.data_ptr() for out in outs]
        self.received[:] = [out.nbytes for out in outs]
