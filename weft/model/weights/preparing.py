"""Packs targets into the form that kernels multiply by, one while the next is read."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from torch import Tensor

from weft.compute.ops.weights import FileBlocks, Weight
from weft.model.layers import Prepare
from weft.model.weights.filling import SPARE_BYTES, Filling


class Preparing:
    """Puts into `params` what `prepare` makes of targets, or the targets themselves where it is None.

    One at a time, in a thread: reading takes one core, and preparing does not keep all others busy. The caller's thread
    prepares, before it reads on, targets larger than `SPARE_BYTES`, to limit memory, and targets on a device, because
    the current device is a property of the thread.
    """

    def __init__(self, prepare: Prepare | None, filling: Filling, params: dict[str, Weight]) -> None:
        self._prepare, self._filling, self._params = prepare, filling, params
        self._thread = ThreadPoolExecutor(1)
        self._begun: tuple[str, Tensor | FileBlocks, Future[Weight]] | None = None

    def __enter__(self) -> Preparing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """All that was given is there; what prepares the last one raises is raised here."""
        with self._thread:
            if kind is None:
                self._finish()

    def give(self, target: str, whole: Tensor | FileBlocks, peaks: Tensor | None = None) -> None:
        """`whole` is the target's; `peaks`: see `Prepare`. Raises what preparing the one before it raised."""
        self._finish()
        memory = whole.raw if isinstance(whole, FileBlocks) else whole
        if self._prepare is None or memory.device.type != "cpu" or memory.nbytes > SPARE_BYTES:
            self._put(target, whole, self._made(target, whole, peaks))
        else:
            self._begun = target, whole, self._thread.submit(self._made, target, whole, peaks)

    def _made(self, target: str, whole: Tensor | FileBlocks, peaks: Tensor | None) -> Weight:
        if isinstance(whole, FileBlocks):
            assert self._prepare is not None, "nothing else takes blocks"
            return self._prepare.blocks(target, whole)
        return whole if self._prepare is None else self._prepare(target, whole, peaks)

    def _finish(self) -> None:
        if self._begun is not None:
            (target, whole, future), self._begun = self._begun, None
            self._put(target, whole, future.result())

    def _put(self, target: str, whole: Tensor | FileBlocks, made: Weight) -> None:
        self._params[target] = made
        if isinstance(whole, Tensor):
            self._filling.take_back(target, whole, made)
