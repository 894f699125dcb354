"""Layouts that are legal and can be explained, but that the model code or the engine does not run."""

from __future__ import annotations

from importlib.util import find_spec

from weft.base.errors import LayoutError
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.routed import DEEPEP


def refuse_unsupported(layout: Layout, device: str = "cpu") -> None:
    """Raises LayoutError for a layout that is legal and explained but that the engine does not run on `device`."""
    if layout.experts and layout.experts.dispatch.startswith(DEEPEP):
        raise _without_deepep(layout.experts.dispatch)
    attention = layout.attention
    for name, number in (("attention.cp", attention.cp), ("attention.kv_split", attention.kv_split)):
        if number > 1 and device == "cuda":
            why = "attention's kernels on CUDA devices give no partial outputs"
            message = f"{name} {number}: {why}; use {name} 1, or --device cpu"
            raise LayoutError(message, field=name, value=number, legal=(1,))


def refuse_without_model_code(layout: Layout) -> None:
    """Raises LayoutError for a layout that the model code does not run yet, so that a dry run cannot count it."""
    if layout.experts and layout.experts.dispatch.startswith(DEEPEP):
        dispatch, legal = layout.experts.dispatch, "all_to_all"
        message = (
            f"experts.dispatch {dispatch}: the model code does not run it yet, so there is nothing to count; use"
            f" {legal} (weft explain says what it can without running it)"
        )
        raise LayoutError(message, field="experts.dispatch", value=dispatch, legal=(legal,))


def _without_deepep(dispatch: str) -> LayoutError:
    """DeepEP's kernels are a separate library, for NVIDIA GPUs with NVSHMEM; the message says what of it is missing."""
    found = find_spec("deep_ep") is not None
    library = "is importable, but weft has no adapter for it" if found else "is not importable"
    legal = ("auto", "all_gather", "all_to_all")
    message = f"experts.dispatch {dispatch}: its library deep_ep {library}; legal: {', '.join(legal)}"
    return LayoutError(message, field="experts.dispatch", value=dispatch, legal=legal)
