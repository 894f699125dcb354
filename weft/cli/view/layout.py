"""The layout of a plan, for the page of a server."""

from __future__ import annotations

from functools import partial

from weft.cli.args.quantization import choices_from
from weft.frontend.server.page.layout_view import LayoutView
from weft.runtime.launch_plan.plan import LaunchPlan
from weft.tools.explain.report import explain

ROWS = 8
"""Rows per dp group of the steps that are shown, beside steps of one row."""


def layout_of(name: str, plan: LaunchPlan) -> LayoutView:
    """What `weft explain` says of the plan."""
    choices = choices_from(plan.engine, plan.config, plan.checkpoint, plan.storage)
    view = partial(explain, name, plan.config, plan.layout, dtype=plan.engine.dtype, batch=ROWS)
    return LayoutView(partial(view, storage=plan.storage, choices=choices))
