"""Process groups of gloo, one for each group of ranks: what `gloo.py` sends through them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor

from weft.compute.comm.base import Group
from weft.compute.comm.distributed.peers import Store

_dist: Any = torch.distributed  # torch's type stubs leave out half of what this file takes from it


class Work(Protocol):
    """A collective or a message on its way."""

    def wait(self) -> object: ...

    def is_completed(self) -> bool: ...


class Members:
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
        work: Work = self._process_group._allgather_base(bytes_of(outs), bytes_of(x))
        return work

    def send(self, x: Tensor, peer: int) -> Work:
        """To the other rank of a pair."""
        work: Work = self._process_group.send([bytes_of(x)], self.group.index(peer), 0)
        return work

    def recv(self, out: Tensor, peer: int) -> Work:
        """From the other rank of a pair."""
        work: Work = self._process_group.recv([bytes_of(out)], self.group.index(peer), 0)
        return work

    def exchange(self, received: Tensor, sent: Tensor, received_sizes: list[int], sent_sizes: list[int]) -> Work:
        """Bytes, cut by member."""
        options = _dist.AllToAllOptions()
        work: Work = self._process_group.alltoall_base(received, sent, received_sizes, sent_sizes, options)
        return work


def bytes_of(x: Tensor) -> Tensor:
    """A flat view of a contiguous tensor's bytes: gloo knows fewer dtypes than we send."""
    return x.view(-1).view(torch.uint8)


def process_group(store: Store, index: int, position: int, size: int, timeout: float, own: str) -> Any:
    options = _dist.ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=timeout)
    options._devices = [_dist.ProcessGroupGloo.create_device(hostname=own)]
    return _dist.ProcessGroupGloo(_dist.PrefixStore(f"group {index}", store), position, size, options)
