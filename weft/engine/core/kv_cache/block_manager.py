"""References to the KV blocks of one attention-dp group, and the blocks that hold a cached prefix.

Every block is in exactly one state:

    free  --allocate-->  held (references > 0)  --release-->  free, or idle if published
    idle (published, no references)  --acquire-->  held;  --evict-->  free

A request that holds a published block also holds every block before it in the chain (`publish` ensures it), and
`release` works from a table's end, so a parent becomes idle after its children: the least recently used idle block,
the first of `_idle`, is always a leaf.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockManager:
    """`num_blocks` blocks with ids 1 .. num_blocks; 0 is the null block and never allocated."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks, 0, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._references = [0] * (num_blocks + 1)
        self._digest: list[bytes | None] = [None] * (num_blocks + 1)
        self._parent = [0] * (num_blocks + 1)
        self._by_digest: dict[bytes, int] = {}

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can return."""
        return len(self._free) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Available blocks that hold a cached prefix."""
        return len(self._idle)

    def match(self, digests: Sequence[bytes], limit: int) -> list[int]:
        """Published blocks of the longest cached prefix, at most `limit`; adds no references."""
        blocks: list[int] = []
        for digest in digests[:limit]:
            block = self._by_digest.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def count_idle(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` would stop being available if they were acquired."""
        return sum(not self._references[block] for block in blocks)

    def acquire(self, blocks: Iterable[int]) -> None:
        """Adds a reference to each of these published blocks."""
        for block in blocks:
            if not self._references[block]:
                del self._idle[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """`count` unpublished blocks with one reference; evicts idle blocks when none is free. ValueError: too few."""
        if count > self.num_available:
            raise ValueError(f"{count} blocks asked for, {self.num_available} available")
        kept = max(len(self._free) - count, 0)
        blocks = self._free[kept:][::-1]
        del self._free[kept:]
        blocks += [self._evict() for _ in range(count - len(blocks))]
        for block in blocks:
            self._references[block] = 1
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Drops a reference to each block of a table (or of its tail), the last block first."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._digest[block] is None:
                    self._free.append(block)
                else:
                    self._idle[block] = None

    def publish(self, table: list[int], index: int, digest: bytes) -> int | None:
        """Publishes the full, computed block table[index] under `digest`.

        If an equal block is published already, table[index] becomes that one; the displaced block is returned with
        its reference, and the caller releases it when no step in flight reads it. A block that follows an unpublished
        one stays private, because no request could find it.
        """
        block, parent = table[index], table[index - 1] if index else 0
        if self._digest[block] is not None or (parent and self._digest[parent] is None):
            return None
        owner = self._by_digest.get(digest)
        if owner is not None:
            self.acquire((owner,))
            table[index] = owner
            return block
        self._by_digest[digest], self._digest[block], self._parent[block] = block, digest, parent
        return None

    def withdraw(self, blocks: Iterable[int]) -> None:
        """Unpublishes `blocks` and all blocks that follow them, because their contents may be wrong. O(num_blocks)."""
        gone = {block for block in blocks if self._digest[block] is not None}
        while grown := {block for block in self._by_digest.values() if self._parent[block] in gone} - gone:
            gone |= grown
        for block in sorted(gone):
            self._forget(block)
            if not self._references[block]:
                del self._idle[block]
                self._free.append(block)

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        self._forget(block)
        return block

    def _forget(self, block: int) -> None:
        digest = self._digest[block]
        if digest is not None:
            del self._by_digest[digest]
        self._digest[block] = None
