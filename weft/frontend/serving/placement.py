"""Placement: which replica takes each request, for the server and for weft.LLM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.limits import Limits
from weft.engine.core.outputs import RequestOutput
from weft.frontend.serving.router import LOOKED_AT, Router, job_of


class RequestPlacement:
    """The router of several replicas; of a single one nothing is counted."""

    def __init__(self, replicas: int) -> None:
        self.several = replicas > 1
        self._router = Router(replicas)

    def open(self, replica: int, limits: Limits, groups: int) -> None:
        """The replica is ready, with empty caches; `groups`: attention-dp groups, each with `limits`."""
        self._router.open(replica, limits.num_blocks * groups, limits.max_num_seqs * groups)

    def close(self, replica: int) -> None:
        """The replica's ranks died: it has no slot and no block."""
        self._router.open(replica, 0, 0)

    def place(
        self,
        prompts: Mapping[str, Sequence[int]],
        params: SamplingParams,
        limits: Limits | None,
        among: Sequence[int],
    ) -> int:
        """The replica, one of `among`, that takes all `prompts` (token ids by request id) together."""
        if not self.several:
            return 0
        size = limits.block_size if limits is not None and limits.enable_prefix_caching else None
        looked_at = LOOKED_AT // len(prompts)
        return self._router.place({i: job_of(ids, params, size, looked_at) for i, ids in prompts.items()}, among)

    def computed(self, outputs: Iterable[RequestOutput]) -> Iterable[RequestOutput]:
        """Counts the prompts whose first token is among a step's outputs as done; gives the outputs back."""
        if not self.several:
            return outputs
        found = list(outputs)
        for output in found:
            if output.output_tokens == 1 and output.index == 0:
                self._router.computed(output.request_id)
        return found

    def end(self, request_id: str) -> None:
        """The request is over, or leaves its replica; a second call does nothing."""
        self._router.end(request_id)
