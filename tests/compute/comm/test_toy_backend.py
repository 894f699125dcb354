"""A comm backend in one file: registered beside the others, chosen by name, and held by the same conformance cases."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from tests.compute.comm import comm_cases
from weft.base.errors import ConfigError
from weft.compute.comm.backend import CommSpec, RankEnd, Rendezvous
from weft.compute.comm.base import Comm, Group
from weft.compute.comm.registry import BACKENDS, backend_named, choose_backend
from weft.compute.comm.sums import ordered_sum
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.families import parse_config
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.resolve import resolve

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}


class PipeMesh(Rendezvous):
    """A socket pair for every two ranks; `fds(rank)` has one for each other rank, in rank order."""

    def __init__(self, world: int, groups: tuple[Group, ...]) -> None:
        super().__init__(groups)
        self._pairs = {pair: socket.socketpair() for pair in itertools.combinations(range(world), 2)}

    def fds(self, rank: int) -> tuple[int, ...]:
        mine = [(a + b - rank, ends[rank == b]) for (a, b), ends in self._pairs.items() if rank in (a, b)]
        return tuple(end.fileno() for _, end in sorted(mine, key=lambda each: each[0]))

    def close(self) -> None:
        for end in itertools.chain(*self._pairs.values()):
            end.close()


class PipeComm(Comm):
    """Every collective is an all_to_all, and that one message to each other member."""

    def __init__(self, end: RankEnd) -> None:
        self.rank, self.world = end.rank, end.world
        peers = [rank for rank in range(end.world) if rank != end.rank]
        self._sockets = {peer: socket.socket(fileno=os.dup(fd)) for peer, fd in zip(peers, end.fds, strict=True)}

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        outs = [torch.empty_like(x) for _ in group]
        self.all_to_all([x] * len(group), outs, group)
        return ordered_sum(outs)

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        self.all_to_all([x] * len(group), outs, group)

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        outs = [torch.empty_like(out) for _ in group]
        self.all_to_all(xs, outs, group)
        out.copy_(ordered_sum(outs))

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        for peer, x in zip(group, xs, strict=True):
            if peer != self.rank:
                data = x.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                self._sockets[peer].sendall(struct.pack("<I", len(data)) + data)
        for peer, x, out in zip(group, xs, outs, strict=True):
            out.copy_(x if peer == self.rank else self._received(peer, out))

    def send(self, x: Tensor, peer: int) -> None:
        data = x.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        self._sockets[peer].sendall(struct.pack("<I", len(data)) + data)

    def recv(self, out: Tensor, peer: int) -> None:
        out.copy_(self._received(peer, out))

    def barrier(self, group: Group) -> None:
        self.all_gather(torch.zeros(1), [torch.zeros(1) for _ in group], group)

    def close(self) -> None:
        for each in self._sockets.values():
            each.close()

    def _received(self, peer: int, like: Tensor) -> Tensor:
        (size,) = struct.unpack("<I", self._sockets[peer].recv(4, socket.MSG_WAITALL))
        data = bytearray(self._sockets[peer].recv(size, socket.MSG_WAITALL) if size else b"")
        return torch.frombuffer(data, dtype=like.dtype).view(like.shape) if size else torch.empty_like(like)


class PipeBackend:
    name, keeps_records = "pipes", False

    def why_not(self, world: int, hosts: int, device: str) -> str:
        return "pipes reach no other machine" if hosts > 1 else "more than 4 ranks" if world > 4 else ""

    def meet(self, spec: CommSpec) -> Rendezvous:
        return PipeMesh(spec.world, spec.groups)

    def make(self, end: RankEnd) -> Comm:
        return PipeComm(end)


REGISTERED = (*BACKENDS, PipeBackend())


def shards(tp: int) -> Shards:
    config: ModelConfig = parse_config(CONFIG)
    return Shards(config, resolve({}, tp=tp))


def test_it_is_chosen_by_name_and_refuses_by_reason() -> None:
    assert choose_backend("pipes", shards(2), backends=REGISTERED).name == "pipes"
    assert choose_backend("auto", shards(2), backends=(PipeBackend(), *BACKENDS)).name == "pipes"
    assert choose_backend("auto", shards(2), backends=REGISTERED).name != "pipes"
    with pytest.raises(ConfigError, match="comm pipes: pipes reach no other machine; legal here: "):
        choose_backend("pipes", shards(2), hosts=2, backends=REGISTERED)
    with pytest.raises(ConfigError, match="comm pipes: legal: auto, shared_memory, tcp, gloo"):
        choose_backend("pipes", shards(2))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_it_conforms(world: int) -> None:
    backend, groups = backend_named("pipes", REGISTERED), comm_cases.groups_of(world)
    meeting = backend.meet(CommSpec(world, groups))
    cases = comm_cases.systematic(world) + comm_cases.drawn(world, 100, seed=world, most_rows=20)

    def run(rank: int) -> list[str]:
        comm = backend.make(RankEnd(rank, world, groups, meeting.fds(rank)))
        wrong = [text for case in cases if (text := comm_cases.check(comm, case))]
        comm.close()
        return wrong

    with ThreadPoolExecutor(world) as threads:
        assert list(itertools.chain(*threads.map(run, range(world)))) == []
    meeting.close()
