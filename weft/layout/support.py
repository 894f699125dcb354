"""The one table of legal layouts that the model code or the engine cannot run yet."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

from weft.errors import LayoutError
from weft.layout.layout import Layout
from weft.layout.routed import DEEPEP


class _Limit(NamedTuple):
    """A field whose only supported value is `legal`."""

    field: str
    value: object
    legal: object
    change: str


def refuse_unsupported(layout: Layout) -> None:
    """Raises LayoutError for a layout that is legal and explained but that the engine cannot run yet."""
    if layout.experts and layout.experts.dispatch.startswith(DEEPEP):
        raise _without_deepep(layout.experts.dispatch)
    for limit in _exceeded(layout):
        message = f"{limit.field} {limit.value}: explained, but the engine cannot run it yet; {limit.change}"
        raise LayoutError(message, field=limit.field, value=limit.value, legal=(limit.legal,))


def refuse_without_model_code(layout: Layout) -> None:
    """Raises LayoutError for a layout that the model code does not run yet, so that a dry run cannot count it."""
    for limit in _exceeded(layout):
        message = (
            f"{limit.field} {limit.value}: the model code does not run it yet, so there is nothing to count; use "
            f"{limit.legal} (weft explain says what it can without running it)"
        )
        raise LayoutError(message, field=limit.field, value=limit.value, legal=(limit.legal,))


def _exceeded(layout: Layout) -> Iterator[_Limit]:
    limits: list[_Limit] = []
    if layout.experts and layout.experts.dispatch.startswith(DEEPEP):
        limits.append(_Limit("experts.dispatch", layout.experts.dispatch, "all_to_all", "use all_to_all"))
    return (limit for limit in limits if limit.value != limit.legal)


def _without_deepep(dispatch: str) -> LayoutError:
    """DeepEP's kernels are a separate library, for NVIDIA GPUs with NVSHMEM; the message says what of it is missing."""
    found = find_spec("deep_ep") is not None
    library = "is importable, but weft has no adapter for it" if found else "is not importable"
    legal = ("auto", "all_gather", "all_to_all")
    message = f"experts.dispatch {dispatch}: its library deep_ep {library}; legal: {', '.join(legal)}"
    return LayoutError(message, field="experts.dispatch", value=dispatch, legal=legal)
