"""What an executor of a model without experts has where ranks would count the rows of experts."""

from __future__ import annotations

from weft.parallel.experts.statistics.loads import IntArray


class Uncounted:
    """A base of executors."""

    def expert_counts(self) -> IntArray:
        """Never called: the model has no experts."""
        raise AssertionError("no expert is counted here")
