"""A rank's room in memory of the test's own process."""

from __future__ import annotations

import torch


class Shelf:
    """Takes memory as `weft.comm.shm.arena.SharedArena` does; knows whether an address is its own."""

    def __init__(self, nbytes: int) -> None:
        self.memory = torch.zeros(nbytes, dtype=torch.uint8)
        self.begin = self.memory.data_ptr() + -self.memory.data_ptr() % 64
        self.taken = self.begin

    def take(self, nbytes: int) -> int:
        at = self.taken + -self.taken % 64
        self.taken = at + nbytes
        return at

    reserve = take

    def give_back(self, taken: int) -> None:
        self.taken = taken

    def holds(self, address: int) -> bool:
        return self.begin <= address < self.taken
