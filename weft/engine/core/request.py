"""One output of one user request, with its tokens and blocks, as its scheduler keeps it."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from weft.base.step.plan import NewRequest, ScheduledRequest, TokenLogprob
from weft.base.step.sampling_params import SamplingParams

ALL_BLOCKS = sys.maxsize
"""`num_known` of a table that the ranks know to its end, also where it grows."""


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """Output `index` of request `request_id`.

    token_ids  |<- prompt ->|<- outputs ->|
    computed   |<- num_computed ->|          positions whose keys and values lie in `table`
    digests    one per full block of token_ids that is known to the prefix cache's chain

    While it decodes, `token_ids` and `num_computed` grow together, at its events only (`DecodeBatch`).
    """

    request_id: str
    index: int
    arrival: int
    """Order of arrival over all groups: the youngest running request is preempted first."""
    token_ids: list[int]
    num_prompt: int
    max_len: int
    """Prompt and outputs together; reaching it ends the output with `length`."""
    params: SamplingParams
    seed: int
    eos_ids: frozenset[int]
    """Empty if the request ignores them."""
    stop_ids: frozenset[int]
    digests: list[bytes] = field(default_factory=list)

    slot: int = -1
    admission: int = 0
    """Counts admissions and departures: results of a plan made before a departure are recognised by it."""
    num_computed: int = 0
    num_in_flight: int = 0
    """Positions after `num_computed` that steps in flight compute."""
    num_sampling: int = 0
    """Tokens that steps in flight sample."""
    table: list[int] = field(default_factory=list)
    """Block ids. A departure replaces the list instead of clearing it."""
    num_known: int = 0
    """Leading entries of `table` that ranks know, or get with the next step; or `ALL_BLOCKS`."""
    num_published: int = 0
    """Leading blocks of `table` that came from the prefix cache or were published in it."""
    num_claimed: int = 0
    """Full blocks [0, num_claimed) were cached or claimed for computing at the last admission."""
    queued_step: int = -1
    """Index of the last step that had retired when the request arrived."""
    decoding_since: int = -1
    """Index of the step that sampled its first token since its admission."""
    last_step: int = -1
    """Index of the last step that refers to this request's blocks."""
    done: bool = False
    paused: bool = False
    """Neither running nor waiting: the client does not read its earlier output."""
    cached_tokens: int = 0
    preemptions: int = 0
    arrived_s: float = field(default_factory=time.monotonic)
    queued_s: float = 0.0
    """Seconds from arrival to the first admission."""
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the prompt tokens scored so far; reported with the first output token."""

    def prompt_run(self, most: int) -> ScheduledRequest:
        """Its next rows, at most `most`, with the entries of `table` that ranks do not know; from now on they do."""
        start, count, known = self.num_planned, min(self.num_unplanned, most), min(self.num_known, len(self.table))
        ids, sample = self.token_ids[start : start + count], count == self.num_unplanned
        targets = self.token_ids[start + 1 : start + count + 1] if self.scores else []
        place = self.num_outputs + self.num_sampling
        self.num_known = ALL_BLOCKS
        self.num_in_flight += count
        self.num_sampling += sample
        return ScheduledRequest(self.slot, start, count, ids, self.table[known:], sample, place, targets, known)

    def step_done(self, run: ScheduledRequest) -> None:
        """`run` has retired; its rows are no longer in flight. `num_computed` stays the caller's to update."""
        self.num_in_flight -= run.count
        self.num_sampling -= run.sample

    def new_request(self) -> NewRequest:
        """The record by which ranks learn of the request."""
        prompt, outputs = self.token_ids[: self.num_prompt], self.token_ids[self.num_prompt :]
        return NewRequest(self.slot, prompt, outputs, self.params, self.seed)

    @property
    def place(self) -> tuple[int, int]:
        """Sort key: smaller ones are admitted first and preempted last."""
        return self.params.priority, self.arrival

    def begin(self, cached_tokens: int) -> None:
        """Records the first admission, with `cached_tokens` from the prefix cache."""
        self.cached_tokens = cached_tokens
        self.queued_s = self.queued_s or time.monotonic() - self.arrived_s

    @property
    def num_outputs(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.num_prompt

    @property
    def scores(self) -> bool:
        """Whether log-probabilities of the prompt are still to be computed; cached blocks cannot be used then."""
        return self.params.prompt_logprobs is not None and self.num_outputs == 0

    @property
    def num_planned(self) -> int:
        """Positions that are computed, or will be by steps in flight."""
        return self.num_computed + self.num_in_flight

    @property
    def num_unplanned(self) -> int:
        """Known tokens that no step computes or has computed; negative if rows of future tokens are planned."""
        return len(self.token_ids) - self.num_planned

    @property
    def has_next_token(self) -> bool:
        """Whether its length allows another token after those that it has and those in flight."""
        return len(self.token_ids) + self.num_sampling < self.max_len

    @property
    def num_uncomputed(self) -> int:
        """Known tokens whose keys and values are not in the cache yet."""
        return len(self.token_ids) - self.num_computed
