"""Whether a sampled id ends its request, the record that callers get, and a group's statistics. Pure functions.

Stop strings are found where the text is made, in `Choice`.
"""

from __future__ import annotations

from msgspec.structs import asdict

from weft.base.step.plan import Sampled
from weft.engine.core.kv_cache.block_manager import BlockManager
from weft.engine.core.outputs import Counters, FinishReason, GroupStats, RequestOutput, TokenLogprob
from weft.engine.core.request import Request


def finish_after(request: Request) -> tuple[FinishReason, int | None] | tuple[None, None]:
    """(reason, stop_reason) if the request's last token, just appended, ends it."""
    token = request.token_ids[-1]
    if request.num_outputs >= request.params.min_tokens:
        if token in request.eos_ids:
            return FinishReason.STOP, None
        if token in request.stop_ids:
            return FinishReason.STOP, token
    if len(request.token_ids) >= request.max_len:
        return FinishReason.LENGTH, None
    return None, None


def output_of(
    request: Request,
    result: Sampled | None = None,
    *,
    finish: FinishReason | None = None,
    stop_reason: int | str | None = None,
    error: str | None = None,
) -> RequestOutput:
    """The record with `result`'s token, or with the reason why the request ended."""
    logprobs = []
    if result is not None and result.logprob is not None:
        logprobs = [TokenLogprob(result.token_id, result.logprob, result.rank_of_token, result.top)]
    return RequestOutput(
        request_id=request.request_id,
        index=request.index,
        new_token_ids=[] if result is None else [result.token_id],
        logprobs=logprobs,
        prompt_logprobs=request.prompt_logprobs if result is not None and request.num_outputs == 1 else [],
        finish_reason=finish,
        stop_reason=stop_reason,
        error=error,
        prompt_tokens=request.num_prompt,
        output_tokens=request.num_outputs,
        cached_tokens=request.cached_tokens,
        preemptions=request.preemptions,
        queued_s=request.queued_s,
    )


def group_stats(counters: Counters, blocks: BlockManager, running: int, waiting: int) -> GroupStats:
    """A group's counters and gauges."""
    return GroupStats(
        running=running,
        waiting=waiting,
        blocks_used=blocks.num_blocks - blocks.num_available,
        blocks_free=blocks.num_available,
        blocks_cached=blocks.num_idle,
        **asdict(counters),
    )
