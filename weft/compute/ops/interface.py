"""The seam of operations that layers call: flat buffers in, flat buffers out. `operations/` declares each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from torch import Tensor

from weft.compute.ops.native.builder import Builder
from weft.compute.ops.operations.attention import AttentionOps
from weft.compute.ops.operations.dense import DenseOps
from weft.compute.ops.operations.experts import ExpertOps
from weft.compute.ops.reference.linear import Invariance
from weft.compute.ops.weights import FileBlocks, Use, Weight


class Ops(DenseOps, AttentionOps, ExpertOps):
    """The operations of a decoder, and how weights are prepared for them. `name` is shown at start-up."""

    name: str
    calls: Builder

    def why_not_capturable(self, experts: bool) -> str:
        """What keeps a CUDA graph from holding a step of these operations, of a model with routed experts or without;
        empty where nothing does."""
        return f"operations of {self.name} ask the host"

    def prepare(self, weight: Tensor, use: Use, peaks: Tensor | None = None) -> Weight:
        """`weight` [out, in] in the form that the products take fastest; called once for each as it is loaded, and the
        tensor is given up afterwards. `peaks` [out]: largest magnitudes of whole rows, where `weight` has a part of
        each and `needs_peaks` asks for them."""
        return weight

    def prepare_slots(self, weight: Tensor, use: Use, slots: int, peaks: Tensor | None = None) -> Weight:
        """The same for `weight` [slots * out, in], a matrix for each expert slot one below the other."""
        return self.prepare(weight, use, peaks)

    def needs_peaks(self, use: Use) -> bool:
        """Whether how a part of a row is rounded depends on the whole row."""
        return False

    def prepare_heads(self, weight: Tensor, heads: int) -> Weight:
        """The same for `weight` [heads * out, in], which `per_head` multiplies by."""
        return weight

    def takes_blocks(self, format: str, use: Use) -> bool:
        """Whether `prepare_blocks` takes a matrix in a file's `format`; else it is decoded and goes to `prepare`."""
        return False

    def prepare_blocks(self, blocks: FileBlocks, use: Use) -> Weight:
        """Like `prepare`, for blocks that `takes_blocks` said yes to."""
        raise TypeError(f"{self.name} takes no blocks of {blocks.format}")

    @abstractmethod
    def check_batch_invariance(self, weights: Iterable[Tensor], seconds: float = 0.5) -> Invariance:
        """Run once at start: tries `linear` on one of `weights` [out, in] of each shape, and from then on uses a form
        of it whose rows keep their bits for every number of rows; the report says if none does."""

    @abstractmethod
    def describe(self) -> str:
        """One line for start-up: which implementation, on what, and why not a faster one."""
