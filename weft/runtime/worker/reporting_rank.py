"""ReportingRank: what a rank says of itself, and the thread that asks for pages of its cache ahead of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from weft.compute.native.step_library import Awaited
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.weights import memory_of
from weft.runtime.ipc.phases import EAGER
from weft.runtime.worker.prepared_rank import PreparedRank
from weft.runtime.worker.tensors.prefault import Prefault, Steps


class ReportingRank(PreparedRank):
    """A prepared rank that describes how its steps run and what it holds."""

    def describe(self) -> str:
        """How steps are run, in words."""
        if self.graphs is not None:
            return self.graphs.describe()
        if self.program is None:
            return f"{EAGER} ({self.why_eager})"
        program = self.program.program
        return f"a program of {len(program)} instructions, buffers {program.arena_bytes / 2**20:.0f} MiB at most"

    def held(self) -> tuple[int, int]:
        """Bytes of weights, and of the KV cache, whose pages come when they are first written."""
        cache = (self.limits.num_blocks + 1) * self.cache_memory.block_bytes
        return memory_of(self.params.values()), cache

    @property
    def reports(self) -> bool:
        """Whether this rank sends the engine what its attention-dp group sampled."""
        return self.geometry.stage_rank % self.shards.layout.group_size == 0 and self.pipeline.last

    def prefault(self, steps: Callable[[], Steps], cpus: Iterable[int] = ()) -> Prefault | None:
        """Of its cache, not yet started; None where that is not the host's memory."""
        cache, highest = self.cache_memory, self.inputs.tables.highest
        if cache.memory is None:
            return None
        slots, sharing = self.limits.max_num_seqs, self.shards.layout.attention.tp
        awaited = Awaited(self.ops.pool.lib, highest.ctypes.data) if isinstance(self.ops, StepOps) else None
        return Prefault(cache.memory, cache.block_bytes, slots, lambda: int(highest[0]), steps, cpus, sharing, awaited)
