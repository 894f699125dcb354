"""The one place that says which legal layouts the engine cannot run yet. Knows no engine."""

from __future__ import annotations

from importlib.util import find_spec

from weft.errors import LayoutError
from weft.layout.layout import Layout
from weft.layout.routed import DEEPEP


def refuse_unsupported(layout: Layout) -> None:
    """Raises LayoutError for a layout that is legal and explained but that the engine cannot run yet."""
    found: dict[str, tuple[object, object, str]] = {
        "pipeline.stages": (layout.pipeline.stages, 1, "use one stage"),
        "attention.cp": (layout.attention.cp, 1, "use attention dp or tp instead"),
        "attention.kv_split": (layout.attention.kv_split, 1, "use kv_split 1"),
        "nodes": (layout.nodes, 1, "use the ranks of one node"),
    }
    if layout.experts and layout.experts.dispatch.startswith(DEEPEP):
        raise _without_deepep(layout.experts.dispatch)
    for field, (value, legal, change) in found.items():
        if value != legal:
            message = f"{field} {value}: explained, but the engine cannot run it yet; {change}"
            raise LayoutError(message, field=field, value=value, legal=(legal,))


def _without_deepep(dispatch: str) -> LayoutError:
    """DeepEP's kernels are a library of their own, for NVIDIA GPUs with NVSHMEM; says what of it is missing."""
    found = find_spec("deep_ep") is not None
    library = "is importable, but weft has no adapter for it" if found else "is not importable"
    legal = ("auto", "all_gather", "all_to_all")
    message = f"experts.dispatch {dispatch}: its library deep_ep {library}; legal: {', '.join(legal)}"
    return LayoutError(message, field="experts.dispatch", value=dispatch, legal=legal)
