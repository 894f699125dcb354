"""How fast memory is read that ranks share, on large pages and on small ones, beside memory of one process.

    python benchmarks/shared_pages.py [--mib 96] [--rounds 40] [--save FILE.json]

As much memory of each kind is added up, in turns, by as many threads as there are cores: pages of 2 MiB of this process
alone, of a rank's room as it is taken, and a room's single pages, as they come where nobody asks for large ones. GB/s,
and of every round the ratio to the first; medians and quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import result_file, run_command, whole
from benchmarks.offline_engine import tell
from benchmarks.peers.probe import Probe
from benchmarks.timing import quantile
from weft.checkpoint.hub.embedded import cache_dir
from weft.comm.shm.arena import Room
from weft.comm.shm.region import Region
from weft.ops.large_pages import large_pages
from weft.ops.pages import RoomPages


def filled(memory: Tensor) -> Tensor:
    return memory.fill_(1).view(torch.int64)


def rates(kinds: dict[str, Tensor], rounds: int) -> dict[str, list[float]]:
    """GB/s of each, round by round; one round before them is not counted."""
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(rounds + 1):
        for name in list(kinds)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            kinds[name].sum()
            found[name].append(kinds[name].nbytes / (time.perf_counter() - began) / 1e9)
    return {name: each[1:] for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=whole, default=96)
    parser.add_argument("--rounds", type=whole, default=40)
    parser.add_argument("--save", type=result_file, metavar="FILE.json")
    arguments = parser.parse_args()
    region, nbytes = Region.create(2, [(0, 1)]), arguments.mib << 20
    pages = RoomPages(Room.enter(region, 0))
    kinds = {
        "own, large pages": filled(large_pages(nbytes)),
        "room, large pages": filled(pages.take(nbytes)),
        "room, single pages": filled(pages.reserve(nbytes)),
    }
    with Probe(cache_dir() / "peers") as probe:
        looks = [probe.ask_behind()]
        found = rates(kinds, arguments.rounds)
        looks.append(probe.ask_behind())
    first, cases = next(iter(found.values())), {}
    for name, each in found.items():
        ratios = [one / own for one, own in zip(each, first, strict=True)]
        spread = {f"ratio_q{n}": round(quantile(ratios, n / 4), 3) for n in (1, 3)}
        medians = {"gb_per_s": round(statistics.median(each), 2), "ratio": round(statistics.median(ratios), 3)}
        cases[name] = medians | spread
    tell(arguments, cases, looks)
    region.close()


if __name__ == "__main__":
    run_command(main)
