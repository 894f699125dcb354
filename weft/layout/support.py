"""The one place that says which legal layouts the engine cannot run yet. Knows no engine."""

from __future__ import annotations

from weft.errors import LayoutError
from weft.layout.layout import Layout


def refuse_unsupported(layout: Layout) -> None:
    """Raises LayoutError for a layout that is legal and explained but that the engine cannot run yet."""
    found: dict[str, tuple[object, object, str]] = {
        "replicas": (layout.replicas, 1, "start one server per replica"),
        "pipeline.stages": (layout.pipeline.stages, 1, "use one stage"),
        "attention.cp": (layout.attention.cp, 1, "use attention dp or tp instead"),
        "attention.kv_split": (layout.attention.kv_split, 1, "use kv_split 1"),
        "nodes": (layout.nodes, 1, "use the ranks of one node"),
    }
    if layout.experts and layout.experts.dispatch == "all_to_all":
        found["experts.dispatch"] = ("all_to_all", "all_gather", "use all_gather or auto")
    for field, (value, legal, change) in found.items():
        if value != legal:
            message = f"{field} {value}: explained, but the engine cannot run it yet; {change}"
            raise LayoutError(message, field=field, value=value, legal=(legal,))
