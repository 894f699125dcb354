"""Outputs of requests and statistics, as the engine returns them. Plain records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from weft.base.step.plan import TokenLogprob as TokenLogprob
from weft.parallel.experts.statistics.counters import ExpertStats

STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class FinishReason(StrEnum):
    """Why an output ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one step added to output `index` of a request.

    Every admitted output ends with exactly one record whose `finish_reason` is set. `stop_reason` is the token id of
    `stop_token_ids` that ended it, or the argument of `Engine.stop_request`; None for an end-of-sequence token. The
    token that ended it is the last of `new_token_ids`. `prompt_logprobs`, where asked for, come with the first token:
    one for each prompt token but the first. `cached_tokens` counts prompt tokens taken from the prefix cache at the
    first admission.
    """

    request_id: str
    index: int
    new_token_ids: list[int] = []
    logprobs: list[TokenLogprob] = []
    prompt_logprobs: list[TokenLogprob] = []
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: str | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    queued_s: float = 0.0
    """Seconds from arrival to the first admission."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OutputHeader:
    """The fields that all records of a decoding output share; in step t it has t + `output_offset` output tokens."""

    request_id: str
    index: int
    prompt_tokens: int
    cached_tokens: int
    preemptions: int
    queued_s: float
    output_offset: int


class DecodeOutputs(msgspec.Struct, frozen=True, eq=False):
    """One step's decode rows, as columns. `extras`: records of rows that have more than an id; None for rows whose
    request has left."""

    tick: int
    headers: list[OutputHeader]
    ids: NDArray[np.int64]
    extras: dict[OutputHeader, RequestOutput | None]

    def __len__(self) -> int:
        return len(self.headers)

    def __getitem__(self, rows: slice) -> DecodeOutputs:
        return DecodeOutputs(self.tick, self.headers[rows], self.ids[rows], self.extras)

    def __iter__(self) -> Iterator[RequestOutput]:
        extras, tick = self.extras, self.tick
        for header, token in zip(self.headers, self.ids.tolist(), strict=True):
            if header in extras:
                if (record := extras[header]) is not None:
                    yield record
                continue
            yield RequestOutput(
                request_id=header.request_id,
                index=header.index,
                new_token_ids=[token],
                prompt_tokens=header.prompt_tokens,
                output_tokens=tick + header.output_offset,
                cached_tokens=header.cached_tokens,
                preemptions=header.preemptions,
                queued_s=header.queued_s,
            )


class Outputs(msgspec.Struct, frozen=True, eq=False):
    """What a step added to all outputs. A record is made when it is read, in the thread that reads it."""

    parts: Sequence[list[RequestOutput] | DecodeOutputs] = ()

    def __iter__(self) -> Iterator[RequestOutput]:
        for part in self.parts:
            yield from part

    def __bool__(self) -> bool:
        return any(map(len, self.parts))

    def whole(self) -> list[RequestOutput]:
        """Records that exist already, among them every one with a finish_reason."""
        found: list[RequestOutput] = []
        for part in self.parts:
            if isinstance(part, list):
                found += part
            elif part.extras:
                found += [record for record in part.extras.values() if record is not None]
        return found

    def cut(self, rows: int) -> Iterator[Outputs]:
        """Parts of at most `rows` records, in order."""
        for part in self.parts:
            for first in range(0, len(part), rows):
                yield Outputs((part[first : first + rows],))


class Counters(msgspec.Struct, kw_only=True):
    """A group's counters: they only grow. `computed_tokens` rows sent to the ranks (recomputed ones again),
    `queried_tokens` known tokens of admissions (resumed ones again) and `cached_tokens` those of them found in the
    prefix cache."""

    preemptions: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    computed_tokens: int = 0
    queried_tokens: int = 0
    cached_tokens: int = 0


class GroupStats(Counters, kw_only=True):
    """One attention-dp group. Blocks: used + free = all; `blocks_cached` of the free ones hold reusable prefixes."""

    running: int
    waiting: int
    blocks_used: int
    blocks_free: int
    blocks_cached: int

    def __add__(self, other: GroupStats) -> GroupStats:
        return GroupStats(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """The engine at one moment: number of steps run, sums over groups, and each group."""

    steps: int
    total: GroupStats
    step_tokens: tuple[int, ...] = ()
    """Cumulative histogram of rows per step: steps with at most each of STEP_TOKENS rows, and all steps."""
    rows: float = 0
    """Rows of all steps."""
    groups: tuple[GroupStats, ...]
    experts: ExpertStats | None = None
