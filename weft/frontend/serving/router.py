"""Router: which of several replicas takes a request: by the work that each has left and the prefixes that each has.

Numbers and digests alone. What a replica's prefix cache holds is guessed from what was sent there: as many blocks as
the replica has, the least recently sent go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.kv_cache.block_hashes import extend_digests

EXPECTED_TOKENS = 256
"""Of an answer, at most: its length is not known, and most end far below their limit."""

LOOKED_AT = 131_072
"""Tokens of a request's prompts, together, whose digests are made: some milliseconds for the event loop."""


@dataclass(frozen=True, slots=True)
class Job:
    """An engine request as work, in tokens: of its prompt, and `answers` expected of all its `outputs`. `digests`: of
    the prompt's full blocks, of `block_size` tokens each."""

    tokens: int
    answers: int
    outputs: int = 1
    digests: tuple[bytes, ...] = ()
    block_size: int = 1


def job_of(
    prompt_ids: Sequence[int], params: SamplingParams, block_size: int | None, looked_at: int = LOOKED_AT
) -> Job:
    """`block_size` None: no prefix is shared. `looked_at`: tokens of the prompt that can be one."""
    digests: list[bytes] = []
    if block_size is not None:
        blocks = min(len(prompt_ids), looked_at) // block_size
        extend_digests(digests, prompt_ids, blocks, block_size, params.cache_salt)
    longest = EXPECTED_TOKENS if params.max_tokens is None else min(params.max_tokens, EXPECTED_TOKENS)
    return Job(len(prompt_ids), params.n * longest, params.n, tuple(digests), block_size or 1)


@dataclass(slots=True)
class _Open:
    """A job that has not ended: where it runs and what of it counts as work left there."""

    replica: int
    prompt: int
    answers: int
    outputs: int


class Router:
    """A request goes where there are slots for it; of such replicas, or of all where none has them, where the work that
    is left and its own uncached tokens are the fewest together.

    So a shared prefix draws requests to the replica that has it, until that one has as many tokens more to do as the
    prefix would save. Among equals the one that remembers the fewest blocks takes it, then the lowest.
    """

    def __init__(self, replicas: int) -> None:
        self._load = [0] * replicas
        self._running = [0] * replicas
        self._slots = [0] * replicas
        self._capacity = [0] * replicas
        self._sent: list[OrderedDict[bytes, None]] = [OrderedDict() for _ in range(replicas)]
        self._jobs: dict[str, _Open] = {}

    def open(self, replica: int, blocks: int, slots: int) -> None:
        """The replica has so many slots for outputs, and a cache of so many blocks, which is empty."""
        self._sent[replica].clear()
        self._capacity[replica], self._slots[replica] = blocks, slots

    def load(self, replica: int) -> int:
        """Tokens of work left: prompts that are not computed, and answers that are expected."""
        return self._load[replica]

    def full(self, replica: int, outputs: int) -> bool:
        """Whether so many outputs more would have to wait for a slot."""
        return self._running[replica] + outputs > self._slots[replica]

    def remembered(self, replica: int) -> int:
        """Blocks that the replica is taken to hold."""
        return len(self._sent[replica])

    def cached(self, replica: int, job: Job) -> int:
        """Tokens of the job's prompt that the replica is taken to have computed."""
        sent, found = self._sent[replica], 0
        for digest in job.digests:
            if digest not in sent:
                break
            found += 1
        return found * job.block_size

    def place(self, jobs: Mapping[str, Job], among: Iterable[int]) -> int:
        """The replica that takes all of `jobs` (by request id) together, one of `among`, where they count from now."""

        outputs = sum(job.outputs for job in jobs.values())

        def cost(replica: int) -> tuple[bool, int, int, int]:
            cached = sum(self.cached(replica, job) for job in jobs.values())
            full = self.full(replica, outputs)
            return full, self._load[replica] - cached, len(self._sent[replica]), replica

        replica = min(among, key=cost)
        for request_id, job in jobs.items():
            uncached = job.tokens - self.cached(replica, job)
            self._jobs[request_id] = _Open(replica, uncached, job.answers, job.outputs)
            self._load[replica] += uncached + job.answers
            self._running[replica] += job.outputs
            self._remember(replica, job)
        return replica

    def computed(self, request_id: str) -> None:
        """The request's prompt is: its first token has come."""
        if (job := self._jobs.get(request_id)) is not None:
            self._load[job.replica] -= job.prompt
            job.prompt = 0

    def end(self, request_id: str) -> None:
        """The request is over, or leaves its replica; said again, nothing happens."""
        if (job := self._jobs.pop(request_id, None)) is not None:
            self._load[job.replica] -= job.prompt + job.answers
            self._running[job.replica] -= job.outputs

    def _remember(self, replica: int, job: Job) -> None:
        """The first block of a prompt is the most recent one, so that a chain is forgotten from its end."""
        sent = self._sent[replica]
        for digest in reversed(job.digests[: self._capacity[replica]]):
            sent[digest] = None
            sent.move_to_end(digest)
        while len(sent) > self._capacity[replica]:
            sent.popitem(last=False)
