"""What first writes of the cache's pages cost streams that begin together, and what it brings to ask for pages ahead.

    python benchmarks/first_writes.py [--model DIR] [--streams 8] [--prompt 128] [--rounds 8] [--save FILE.json]

Engines of one rank in this process take turns burst by burst; no two prompts are alike, so that the prefix cache keeps
every block, and each burst's blocks are new ones. One of them asks, before a burst, for the pages that the burst will
write (`weft/worker/tensors/prefault.py`, here without its thread); one does not; and one has cache and buffers on
single pages instead of large ones, and does not ask either. Of each: the median of the steps in which all streams begin
a block over that of the others, the 99th percentile over the median, the median, and the steps that read the prompts,
milliseconds; medians over bursts. Beside it what 4 KiB cost whoever writes them first, page by page and within large
pages, before all that and behind it: a virtual machine has to be given by its host what nobody in it has used yet.
"""

from __future__ import annotations

import mmap
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import run_command, whole
from benchmarks.offline_engine import Watched, options, tell
from benchmarks.step_subject import OneRank, cores_given_back
from benchmarks.timing import quantile
from weft.checkpoint import open_checkpoint
from weft.checkpoint.hub.paths import model_path
from weft.engine.engine import Engine
from weft.machine.cores import available_cores
from weft.ops.large_pages import large_pages
from weft.ops.pages import OwnPages
from weft.settings import EngineConfig

TOKENS, BLOCK_SIZE, MOST_ROWS = 129, 16, 2048
NEW_BYTES, PAGE_ROUNDS = 32 << 20, 8


def first_write_us(memory: memoryview) -> float:
    """Of 4 KiB, less what a later write takes."""

    def write() -> float:
        began = time.perf_counter()
        for at in range(0, len(memory), mmap.PAGESIZE):
            memory[at] = 1
        return time.perf_counter() - began

    return 1e6 * (write() - write()) * mmap.PAGESIZE / len(memory)


def single_pages(nbytes: int) -> Tensor:
    """As `large_pages`, on pages of 4 KiB."""
    mapping = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(mapping, dtype=torch.uint8)


def page_us() -> dict[str, float]:
    """Microseconds of the first write of 4 KiB: median, least and most of the rounds."""
    kinds = {"single pages": single_pages, "large pages": large_pages}
    kept, found = list[Tensor](), dict[str, list[float]]()
    for number in range(PAGE_ROUNDS):
        for name in list(kinds)[:: 1 if number % 2 else -1]:
            kept.append(kinds[name](NEW_BYTES))
            found.setdefault(name, []).append(first_write_us(memoryview(kept[-1].numpy())))
    picks = {"": statistics.median, " least": min, " most": max}
    return {name + mark: round(pick(found[name]), 2) for name in kinds for mark, pick in picks.items()}


class Subject:
    """An engine whose pages come `ahead`, or not, and are `large`, or not."""

    def __init__(self, model: str | None, streams: int, prompt: int, bursts: int, *, ahead: bool, large: bool) -> None:
        of_stream = -(-(prompt + TOKENS) // BLOCK_SIZE)
        blocks = streams * of_stream * bursts + 1
        settings = EngineConfig(
            max_model_len=of_stream * BLOCK_SIZE,
            max_num_seqs=streams,
            max_num_batched_tokens=MOST_ROWS,
            block_size=BLOCK_SIZE,
            dtype="bfloat16",
        )
        reserve = staticmethod(large_pages if large else single_pages)
        with cores_given_back(), patch.object(OwnPages, "reserve", reserve):
            self.rank = OneRank(open_checkpoint(model_path(model)), settings, len(available_cores()), blocks)
        self._engine = Watched(Engine(self.rank, settings, ()), self.rank.runner.shards.config.vocab_size)
        self._streams, self._prompt, self._ahead, self._bursts = streams, prompt, ahead, 0
        self._new_bytes = streams * of_stream * self.rank.runner.cache_memory.block_bytes
        self._writes = self.rank.runner.first_writes(lambda: (0, False))

    def burst(self) -> list[float]:
        """Milliseconds of its steps."""
        if self._ahead and self._writes is not None:
            while self._writes.advance(self._new_bytes):
                pass
        for stream in range(self._streams):
            number = self._streams * self._bursts + stream
            self._engine.add(str(number), self._engine.prompt(number, self._prompt), TOKENS)
        self._bursts += 1
        steps = []
        while self._engine.engine.has_work:
            began = time.perf_counter()
            self._engine.step()
            steps.append(1e3 * (time.perf_counter() - began))
        return steps


def summary(bursts: list[list[float]]) -> dict[str, float]:
    """Of one kind. The first of the steps that read no prompt is the first to write to a new block, then every 16th."""
    found: dict[str, list[float]] = {"block begins / others": [], "p99_over_p50": [], "median_ms": [], "prompts_ms": []}
    for steps in bursts:
        prompts, streams = steps[: 1 - TOKENS], steps[1 - TOKENS :]
        first = [took for number, took in enumerate(streams) if number % BLOCK_SIZE == 0]
        rest = [took for number, took in enumerate(streams) if number % BLOCK_SIZE]
        found["block begins / others"].append(statistics.median(first) / statistics.median(rest))
        found["p99_over_p50"].append(quantile(streams, 0.99) / statistics.median(streams))
        found["median_ms"].append(statistics.median(streams))
        found["prompts_ms"].append(sum(prompts))
    return {
        f"{name}{mark}": round(quantile(values, share), 2)
        for name, values in found.items()
        for mark, share in (("", 0.5), ("_q1", 0.25), ("_q3", 0.75))
    }


def main() -> None:
    parser = options(__doc__, ranks=False)
    parser.add_argument("--streams", type=whole, default=8)
    parser.add_argument("--prompt", type=whole, default=128, help="tokens of each prompt, whole blocks of 16")
    parser.add_argument("--rounds", type=whole, default=8)
    arguments = parser.parse_args()
    before = page_us()
    model, count = arguments.model, arguments.rounds + 1
    subject = partial(Subject, model, arguments.streams, arguments.prompt, count)
    subjects = {
        "pages as steps write them": subject(ahead=False, large=True),
        "pages ahead": subject(ahead=True, large=True),
        "single pages as steps write them": subject(ahead=False, large=False),
    }
    bursts: dict[str, list[list[float]]] = {name: [] for name in subjects}
    for number in range(count):
        for name in list(subjects)[:: 1 if number % 2 else -1]:
            steps = subjects[name].burst()
            if number:
                bursts[name].append(steps)
    after = page_us()
    for each in subjects.values():
        each.rank.close()
    cases: dict[str, dict[str, float]] = {name: summary(found) for name, found in bursts.items()}
    tell(arguments, {"page_us_before": before, "page_us_after": after, **cases})


if __name__ == "__main__":
    run_command(main)
