"""Driving a run: requests in flight or requests per second, over one client."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import httpx
import msgspec

from weft.base.errors import UnavailableError
from weft.tools.bench.client import BenchTarget, body_of, clock_from_now, send
from weft.tools.bench.outcome import Outcome
from weft.tools.bench.settings import BenchSettings, OfferedLoad
from weft.tools.bench.workload import BenchRequest, Workload

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
WARM_UP = "warm-up"
"""Salt of requests that are not counted."""

OnOutcome = Callable[[Outcome], None]
"""Hears of every request's end."""


@dataclass(frozen=True, slots=True)
class BenchRun:
    """Outcomes of one load, in order of sending. `client_share`: processor time of this client per second."""

    load: OfferedLoad
    repeat: int
    outcomes: tuple[Outcome, ...]
    client_share: float


async def run_load(
    target: BenchTarget, workload: Workload, load: OfferedLoad, repeat: int, on_outcome: OnOutcome = lambda _: None
) -> BenchRun:
    """Warms up, then measures. UnavailableError: nothing of the warm-up was answered."""
    settings = workload.settings
    lines = None if workload.lines is None else len(workload.lines)
    requests = workload.requests(settings.count(load, lines), _salt(load), repeat)
    connections = len(requests) if load.rate is not None else load.concurrency or 1
    async with target.client(max(connections, settings.warmup, 1)) as client:
        if settings.warmup:
            await warm_up(client, target, workload, _salt(load), repeat)
        bodies = [msgspec.json.encode(body_of(target, settings, request)) for request in requests]
        busy, began = time.process_time(), time.perf_counter()
        driver = _Driver(client, settings, on_outcome)
        if load.rate is None:
            await driver.in_flight(requests, bodies, load.concurrency or 1)
        else:
            await driver.per_second(requests, bodies, arrivals(load.rate, settings.seed + repeat))
        share = (time.process_time() - busy) / max(1e-9, time.perf_counter() - began)
    return BenchRun(load, repeat, tuple(driver.outcomes), share)


async def warm_up(client: httpx.AsyncClient, target: BenchTarget, workload: Workload, *salt: object) -> None:
    """Requests that are not counted; UnavailableError where not one is answered."""
    settings = workload.settings
    driver = _Driver(client, settings, lambda _: None)
    requests = workload.requests(settings.warmup, WARM_UP, *salt)
    bodies = [msgspec.json.encode(body_of(target, settings, request)) for request in requests]
    await driver.in_flight(requests, bodies, len(requests))
    failed = [outcome for outcome in driver.outcomes if not outcome.ok]
    if len(failed) == len(driver.outcomes):
        first = failed[0]
        hint = "; --no-ignore-eos leaves it out" if settings.ignore_eos and "ignore_eos" in first.detail else ""
        raise UnavailableError(f"{target.url}{PATHS[settings.endpoint]}: {first.problem}: {first.detail}{hint}")


class _Driver:
    def __init__(self, client: httpx.AsyncClient, settings: BenchSettings, on_outcome: OnOutcome) -> None:
        self._client, self._path, self._limit = client, PATHS[settings.endpoint], settings.timeout
        self._clock, self._on_outcome = clock_from_now(), on_outcome
        self.outcomes: list[Outcome] = []

    async def in_flight(self, requests: Sequence[BenchRequest], bodies: Sequence[bytes], concurrency: int) -> None:
        """A new request whenever one ends, so that `concurrency` are under way."""
        numbers = iter(range(len(requests)))

        async def one_after_another() -> None:
            for number in numbers:
                await self._send(requests[number], bodies[number], self._clock())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(requests))):
                group.create_task(one_after_another())

    async def per_second(
        self, requests: Sequence[BenchRequest], bodies: Sequence[bytes], times: Iterator[float]
    ) -> None:
        """A new request whenever its time has come, however many are under way."""
        async with asyncio.TaskGroup() as group:
            for request, body, due in zip(requests, bodies, times, strict=False):
                await asyncio.sleep(max(0.0, due - self._clock()))
                group.create_task(self._send(request, body, due))

    async def _send(self, request: BenchRequest, body: bytes, due: float) -> None:
        outcome = Outcome(asked=request.output_len, due=due)
        self.outcomes.append(outcome)
        await send(self._client, self._path, body, outcome, self._clock, self._limit)
        self._on_outcome(outcome)


def arrivals(rate: float, seed: int) -> Iterator[float]:
    """Seconds at which requests arrive: exponential gaps (Poisson); all at once where the rate is infinite."""
    draw, now = random.Random(seed), 0.0
    for _ in count():
        yield now
        now += draw.expovariate(rate) if rate != float("inf") else 0.0


def _salt(load: OfferedLoad) -> str:
    """Another word for each load, so that two loads do not share prompts; the same in every layout."""
    return str(load)
