"""Sharing: which blocks of a request others may have. Knows the prefix cache's digests, who waits for whom, and what is
held back; no slot and no budget."""

from __future__ import annotations

from collections.abc import Sequence

from weft.engine.kv_cache.block_hashes import extend_digests
from weft.engine.kv_cache.block_manager import BlockManager
from weft.engine.kv_cache.deferred_free import DeferredFree, PendingFree
from weft.engine.limits import Limits
from weft.engine.request import Request
from weft.engine.waiting_queue import WaitingQueue


class KVCacheManager:
    """Of one group; its parts are the scheduler's."""

    def __init__(self, limits: Limits, blocks: BlockManager, waiting: WaitingQueue, held: DeferredFree) -> None:
        self._limits, self._blocks, self._waiting, self._held = limits, blocks, waiting, held

    def shareable(self, num_tokens: int) -> int:
        """Full blocks that may come from the cache: the last token is always computed, for its logits."""
        return (num_tokens - 1) // self._limits.block_size

    def cached_prefix(self, digests: Sequence[bytes], num_tokens: int) -> int:
        """How many of a new request's tokens the prefix cache holds."""
        return len(self._blocks.match(digests, self.shareable(num_tokens))) * self._limits.block_size

    def next_waiting(self) -> tuple[Request, list[int]] | None:
        """The oldest waiting request that waits for no other's prefix, and the blocks that the cache has for it."""
        while (request := self._waiting.head()) is not None:
            limit = 0 if request.scores else self.shareable(len(request.token_ids))
            cached = self._blocks.match(request.digests, limit)
            claimed = self._waiting.last_claimed(request.digests, len(cached), limit)
            if claimed is None:
                return request, cached
            self._waiting.park(claimed)
        return None

    def publish(self, request: Request) -> bool:
        """Makes the blocks known to the cache that were filled since it was called last. Whether the request's table
        has changed: where others had the same blocks already, it has theirs now.

        Of a prompt that is after each step, for others may wait for it. What a request answers is wanted by later ones,
        such as the next turn of a chat: that is when it leaves, and steps between do without.
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
                self._held.hold(PendingFree(request.last_step, [displaced]))
        if first < request.num_claimed:
            self._waiting.end_claim(request, digests[first : min(full, request.num_claimed)])
        return changed
