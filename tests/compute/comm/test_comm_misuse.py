"""Calls that are wrong on their own rank are refused before C++, gloo or another rank sees them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from weft.base.errors import ConfigError
from weft.compute.comm.distributed.gloo import GlooComm
from weft.compute.comm.lockstep import LockstepWorld
from weft.compute.comm.shm.region import PIECE_BYTES, CollectiveKind, Region, State, read_records
from weft.compute.comm.shm.shared_memory import SharedMemoryComm
from weft.compute.native import missing_reason

PAIR = (0, 1)


@pytest.fixture
def region(native_comm: None) -> Iterator[Region]:
    region = SharedMemoryComm.create(3, [PAIR, (0, 1, 2), (1, 2)])
    yield region
    region.close()


@pytest.fixture
def alone(region: Region) -> Iterator[SharedMemoryComm]:
    """Rank 0 without company: a call that reached the others would end at the time limit with another error."""
    comm = SharedMemoryComm(region, 0, timeout=0.2)
    yield comm
    comm.close()


def ones(count: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(count, dtype=dtype)


MISUSES: dict[str, Callable[[Any], Any]] = {
    "not contiguous": lambda comm: comm.all_reduce(torch.ones(4, 4).t(), PAIR),
    "xs\\[1\\] is not contiguous": lambda comm: comm.reduce_scatter([ones(), torch.ones(8)[::2]], ones(), PAIR),
    "outs\\[1\\] is not contiguous": lambda comm: comm.all_gather(ones(), [ones(), torch.ones(8)[::2]], PAIR),
    "out is not contiguous": lambda comm: comm.reduce_scatter([ones(), ones()], torch.ones(8)[::2], PAIR),
    "outs holds 1 tensors": lambda comm: comm.all_gather(ones(), [ones()], PAIR),
    "xs holds 3 tensors": lambda comm: comm.all_to_all([ones()] * 3, [ones()] * 2, PAIR),
    "float64": lambda comm: comm.all_gather(ones(), [ones(), ones(dtype=torch.float64)], PAIR),
    "int64": lambda comm: comm.all_to_all([ones()] * 2, [ones(dtype=torch.int64)] * 2, PAIR),
    "rank 0 has no group \\(1, 2\\); its groups: \\(0, 1\\)": lambda comm: comm.barrier((1, 2)),
    "rank 0 has no group \\(0, 2\\)": lambda comm: comm.all_reduce(ones(), (0, 2)),
    "rank 0 has no group \\(0,\\)": lambda comm: comm.all_reduce(ones(), (0,)),
}


@pytest.mark.parametrize("wanted", MISUSES)
def test_shared_memory(alone: SharedMemoryComm, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        MISUSES[wanted](alone)


@pytest.mark.parametrize("wanted", MISUSES)
def test_lockstep(wanted: str) -> None:
    lockstep = LockstepWorld(3, [PAIR, (0, 1, 2), (1, 2)])
    with pytest.raises(ValueError, match=wanted):
        MISUSES[wanted](lockstep.comms[0])


OWN_PART: dict[str, Callable[[Any], Any]] = {
    "all_gather": lambda comm: comm.all_gather(ones(4), [ones(3), ones(4)], PAIR),
    "reduce_scatter": lambda comm: comm.reduce_scatter([ones(4), ones(4)], ones(3), PAIR),
    "all_to_all": lambda comm: comm.all_to_all([ones(4), ones(4)], [ones(5), ones(4)], PAIR),
}


@pytest.mark.parametrize("kind", OWN_PART)
def test_own_part_must_fit_its_place(alone: SharedMemoryComm, kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind} over .*this rank's own part is torch.float32 \\[4\\]"):
        OWN_PART[kind](alone)


@pytest.mark.parametrize(("dtype", "device"), [(torch.bool, "cpu"), (torch.int8, "cpu"), (torch.float32, "meta")])
def test_dtypes_and_devices_that_cpp_does_not_know(alone: SharedMemoryComm, dtype: torch.dtype, device: str) -> None:
    x = torch.ones(4, dtype=dtype, device=device)
    with pytest.raises(ValueError, match="this backend takes torch.float32, .* on cpu"):
        alone.all_reduce(x, PAIR)


def test_a_closed_comm_refuses(region: Region) -> None:
    comm = SharedMemoryComm(region, 0, timeout=0.2)
    comm.close()
    comm.close()
    with pytest.raises(ValueError, match="rank 0 has closed its end"):
        comm.barrier(PAIR)


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_rank_that_the_region_does_not_have(region: Region, rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} is none of the region's 0..2"):
        SharedMemoryComm(region, rank)


def test_a_descriptor_that_is_no_region(native_comm: None) -> None:
    fd = os.memfd_create("other")
    os.truncate(fd, 4096)
    with pytest.raises(ValueError, match="not a region"):
        SharedMemoryComm(Region(fd, 4096), 0)
    os.close(fd)


def test_a_size_that_is_not_the_region_s(region: Region) -> None:
    with pytest.raises(ValueError, match="cannot map"):
        SharedMemoryComm(Region(region.fd, region.size - 4096), 0)


def test_impossible_groups(native_comm: None) -> None:
    for groups in ([(0,)], [(1, 0)], [(0, 3)], [PAIR, PAIR]):
        with pytest.raises(ValueError, match="group"):
            SharedMemoryComm.create(3, groups)


def test_gloo_s_listening_socket_belongs_to_rank_0() -> None:
    with pytest.raises(ValueError, match="belongs to rank 0"):
        GlooComm(1, 2, [PAIR], port=1, listen_fd=3)
    with pytest.raises(ValueError, match="belongs to rank 0"):
        GlooComm(0, 2, [PAIR], port=1)


def test_without_the_library_it_refuses_and_names_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    region = SharedMemoryComm.create(2, [PAIR])
    monkeypatch.setenv("WEFT_NATIVE", "0")
    assert "WEFT_NATIVE=0" in missing_reason("comm")
    with pytest.raises(ConfigError, match="WEFT_NATIVE=0; gloo works without it") as raised:
        SharedMemoryComm(region, 0)
    assert raised.value.legal == ("gloo",)
    region.close()


def test_more_memory_than_there_is_is_never_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ConfigError, match="shared memory between ranks: .* bytes wanted, .* available"):
        Region.create(2, [PAIR], piece_bytes=1 << 60)


def test_region_says_what_it_was_made_for() -> None:
    region = Region.create(4, [PAIR, (1, 3)], spin_us=7, debug=True)
    info = region.info()
    assert (info.world, info.groups, info.piece_bytes) == (4, (PAIR, (1, 3)), PIECE_BYTES)
    assert (info.spin_us, info.debug) == (7, True)
    region.mark_dead(2)
    records = read_records(region.fd)
    assert [record.state for record in records] == [State.ALIVE, State.ALIVE, State.DEAD, State.ALIVE]
    assert all(record.kind is CollectiveKind.NONE and not record.inside for record in records)
    assert str(records[1]) == "rank 1 has entered no collective"
    region.close()


def test_a_piece_holds_a_line_for_each_member() -> None:
    for members, wanted in ((2, 4096), (64, 4096), (65, 8192)):
        region = Region.create(members, [tuple(range(members))], piece_bytes=1)
        assert region.info().piece_bytes == wanted
        region.close()


def test_too_many_members() -> None:
    with pytest.raises(ConfigError, match="a group of 257 ranks; at most 256"):
        Region.create(257, [tuple(range(257))], piece_bytes=1)


def test_more_ranks_than_cores_do_not_spin() -> None:
    cores = len(os.sched_getaffinity(0))
    crowded, roomy = Region.create(cores + 1, [PAIR]), Region.create(cores, [PAIR] if cores > 1 else [])
    assert crowded.info().spin_us == 0 < roomy.info().spin_us <= 300
    crowded.close()
    roomy.close()


def test_nothing_is_left_behind(region: Region) -> None:
    """No name in /dev/shm while it lives; no mapping and no descriptor once it is closed."""
    descriptors, named, mapped = len(os.listdir("/proc/self/fd")), names(), mappings()
    other = SharedMemoryComm.create(2, [PAIR])
    comm = SharedMemoryComm(other, 0)
    assert mappings() == mapped + 1
    assert names() == named
    comm.close()
    other.close()
    assert mappings() == mapped
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def names() -> set[str]:
    """Files of /dev/shm that this process maps; tests before may have left semaphores."""
    with open("/proc/self/maps") as maps:
        return {line.split()[-1] for line in maps if "/dev/shm" in line}


def mappings() -> int:
    """Regions that this process maps; tests of other things that ran in it may still hold some."""
    with open("/proc/self/maps") as maps:
        return sum("memfd:weft-comm" in line for line in maps)
