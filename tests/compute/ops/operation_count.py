"""How many operations reach torch's dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class _Counter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def count_operations(call: Callable[[], object]) -> int:
    """Operations that `call` dispatches; views count."""
    with _Counter() as counter:  # type: ignore[no-untyped-call]
        call()
    return int(counter.count)
