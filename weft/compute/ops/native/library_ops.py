"""Operations of the step library: the bodies of their declarations (`weft/compute/ops/operations/`), run or
recorded."""

from __future__ import annotations

from abc import update_abstractmethods
from collections.abc import Callable
from functools import wraps
from typing import Any

from weft.compute.ops.interface import Ops
from weft.compute.ops.operations.declare import NoCallError, declared


class LibraryOps(Ops):
    """A base to put before another one, which computes what the library has no call for. What becomes of the calls is
    decided by the sink of `calls`."""

    def no_call(self, name: str, why: NoCallError) -> Callable[..., Any]:
        """What computes operation `name` where the library has no call for its operands: the next base's."""
        found: Callable[..., Any] = getattr(super(), name)
        return found


def _with_library(name: str, body: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(body, updated=())
    def run(self: LibraryOps, *args: Any, **kwargs: Any) -> Any:
        try:
            return body(self, *args, **kwargs)
        except NoCallError as error:
            why = error
        return self.no_call(name, why)(*args, **kwargs)

    return run


def take_bodies(ops: type, of: type = Ops) -> None:
    """Gives `ops`, a `LibraryOps`, the bodies of the operations that `of` declares."""
    for name, body in declared(of).items():
        setattr(ops, name, _with_library(name, body))
    update_abstractmethods(ops)


take_bodies(LibraryOps)
