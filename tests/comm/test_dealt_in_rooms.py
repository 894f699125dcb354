"""Sums and gathers of dealt rows: read where they lie if all ranks have theirs in rooms, else through slots, alike."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from weft.comm.shm.native_comm import DTYPE_NAMES
from weft.comm.shm.shared_memory import SharedMemoryComm

GROUP = (0, 1, 2)
ROWS, COLUMNS = (5, 0, 4), 24
BF16 = DTYPE_NAMES.index("bfloat16")


@pytest.fixture
def ranks(native_comm: None) -> Iterator[list[SharedMemoryComm]]:
    region = SharedMemoryComm.create(3, [GROUP])
    made = [SharedMemoryComm(region, rank, timeout=5.0) for rank in GROUP]
    yield made
    for comm in made:
        comm.close()
    region.close()


def called(comm: SharedMemoryComm, name: str, whole: Tensor, *rest: int) -> int:
    """A call of the library, of a matrix whose rows are dealt as `ROWS` says."""
    parts, sizes = (ctypes.c_void_p * 3)(), (ctypes.c_uint64 * 3)()
    for member, part in enumerate(whole.split(ROWS)):
        parts[member], sizes[member] = whole.data_ptr() + 2 * COLUMNS * sum(ROWS[:member]), part.nbytes
    call = getattr(comm._library, f"weft_comm_{name}")
    return int(call(comm._handle, comm._groups[GROUP].index, parts, sizes, BF16, *rest))


@pytest.mark.parametrize("settles", [0, 1])
@pytest.mark.parametrize("common", [(1, 1, 1), (0, 0, 0), (1, 0, 1)], ids=str)
def test_dealt_rows_are_those_of_plain_loops(
    common: tuple[int, int, int], settles: int, ranks: list[SharedMemoryComm]
) -> None:
    draw = torch.Generator().manual_seed(7)
    given = [torch.randn(sum(ROWS), COLUMNS, generator=draw).bfloat16() for _ in GROUP]
    sums = (given[0].float() + given[1].float() + given[2].float()).bfloat16()
    held, codes = [each.clone() for each in given], [[0, 0] for _ in GROUP]
    summed: list[Tensor] = [torch.empty(0) for _ in GROUP]

    def run(rank: int) -> None:
        codes[rank][0] = called(ranks[rank], "reduce_dealt", held[rank], common[rank])
        own = held[rank].split(ROWS)[rank]
        summed[rank] = own.clone()
        own += rank  # what the rank makes of its own rows
        codes[rank][1] = called(ranks[rank], "gather_dealt", held[rank], common[rank], settles)

    for _ in range(20):
        for mine, theirs in zip(held, given, strict=True):
            mine.copy_(theirs)
        threads = [threading.Thread(target=run, args=(rank,)) for rank in GROUP]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [[0, 0]] * 3
        assert all(part.equal(own) for part, own in zip(sums.split(ROWS), summed, strict=True))
        whole = torch.cat([own + rank for rank, own in enumerate(summed)])
        assert all(each.equal(whole) for each in held)
