"""The prefix cache over a group's blocks: which cached blocks a request takes, and when its own are published."""

from __future__ import annotations

from collections.abc import Sequence

from weft.engine.core.kv_cache.block_hashes import extend_digests
from weft.engine.core.kv_cache.block_manager import BlockManager
from weft.engine.core.kv_cache.deferred_free import DeferredFree, PendingFree
from weft.engine.core.limits import Limits
from weft.engine.core.request import Request
from weft.engine.core.waiting_queue import WaitingQueue


class KVCacheManager:
    """Of one group. `blocks`, `waiting` and `deferred` belong to the scheduler."""

    def __init__(self, limits: Limits, blocks: BlockManager, waiting: WaitingQueue, deferred: DeferredFree) -> None:
        self._limits, self._blocks, self._waiting, self._deferred = limits, blocks, waiting, deferred

    def shareable(self, num_tokens: int) -> int:
        """Most blocks that may come from the cache: the last token is always computed, for its logits."""
        return (num_tokens - 1) // self._limits.block_size

    def cached_prefix(self, digests: Sequence[bytes], num_tokens: int) -> int:
        """Tokens of a new request that are in the prefix cache."""
        return len(self._blocks.match(digests, self.shareable(num_tokens))) * self._limits.block_size

    def next_waiting(self) -> tuple[Request, list[int]] | None:
        """The oldest request that does not wait for another's prefix, and its cached blocks. Parks those that do."""
        while (request := self._waiting.head()) is not None:
            limit = 0 if request.scores else self.shareable(len(request.token_ids))
            cached = self._blocks.match(request.digests, limit)
            claimed = self._waiting.last_claimed(request.digests, len(cached), limit)
            if claimed is None:
                return request, cached
            self._waiting.park(claimed)
        return None

    def publish(self, request: Request) -> bool:
        """Publishes the blocks that were filled since the last call. Returns whether `request.table` has changed: a
        block whose contents were published before by another request is replaced by that one.

        Called after each step of a prompt, because other requests may wait for its blocks, and when the request leaves:
        only later requests, such as the next turn of a chat, can use blocks of its answer.
        """
        size = self._limits.block_size
        first, full = request.num_published, request.num_computed // size
        if full <= first or not self._limits.enable_prefix_caching:
            return False
        request.num_published = full
        digests, changed = request.digests, False
        if len(digests) < full:
            extend_digests(digests, request.token_ids, full, size, request.params.cache_salt)
        for index in range(first, full):
            displaced = self._blocks.publish(request.table, index, digests[index])
            if displaced is not None:
                changed, request.num_known = True, min(request.num_known, index)
                self._deferred.free(PendingFree(request.last_step, [displaced]))
        if first < request.num_claimed:
            self._waiting.end_claim(request, digests[first : min(full, request.num_claimed)])
        return changed
