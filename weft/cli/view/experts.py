"""Draws a plan and heat maps of experts on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from weft.parallel.experts import BalancePlan, SlotShape
from weft.parallel.experts.pictures.heat_map import HeatMap

SHADES = " ░▒▓█"
COLORS = ("grey15", "blue", "cyan", "yellow", "red")
LIMITS = (0.5, 1.0, 1.5, 3.0)
"""A value below the first limit gets the first shade, and so on; relative to the mean of the layer."""
NARROWEST, WIDEST = 16, 512
MARGIN = 24
"""Columns of a line that are not the map: the layer's number before it, its largest value after it."""


def print_plan(plan: BalancePlan, shape: SlotShape, notes: tuple[str, ...], console: Console) -> None:
    """A summary of a plan."""
    words = f"{shape.experts} experts in {shape.slots} slots on {shape.ranks} ranks"
    console.print(f"{words}, {len(plan.balance.known)} layers with load, policy {plan.policy}", highlight=False)
    lines = [("balance", f"{plan.balance.mean:.4f} mean, {plan.balance.min:.4f} worst layer (1 is perfect)")]
    if plan.before is not None:
        lines.append(("before", f"{plan.before.mean:.4f} mean, {plan.before.min:.4f} worst layer"))
    if plan.moved is not None and plan.moved_share is not None:
        lines.append(("moved", f"{sum(plan.moved)} slots, {100 * plan.moved_share:.2f} % of all"))
    replicas = plan.placement.counts()
    lines.append(("replicas", f"up to {replicas.max()} of one expert; {plan.placement.duplicates()} share a rank"))
    for name, text in (*lines, *(("note", note) for note in notes)):
        console.print(f"  {name:<9} {text}", highlight=False, soft_wrap=True)


def print_heat_map(heat_map: HeatMap, console: Console) -> None:
    """A line for each layer; many experts share a column, which shows the largest of them."""
    relative = heat_map.values / heat_map.values.mean(axis=1, keepdims=True)
    scaled = HeatMap(heat_map.title, heat_map.column, heat_map.value, heat_map.layers, relative)
    cells = scaled.binned(max(NARROWEST, min(WIDEST, console.width - MARGIN)))
    columns = heat_map.values.shape[1]
    shared = f", the largest of {-(-columns // cells.shape[1])} a column" if columns > cells.shape[1] else ""
    console.print(f"{heat_map.title}: layers x {columns} {heat_map.column}s{shared}", highlight=False)
    console.print(Text("layer ").append(_legend()))
    for layer, row, values in zip(heat_map.layers, cells, heat_map.values, strict=True):
        line = Text(f"{layer:>5} ")
        for value in row:
            line.append(_cell(float(value)))
        console.print(line.append(f" max {values.max():.2f}"), no_wrap=True, soft_wrap=True)


def _cell(value: float) -> Text:
    level = sum(value >= limit for limit in LIMITS)
    return Text(SHADES[level], style=COLORS[level])


def _legend() -> Text:
    legend = Text(f"'{SHADES[0]}' below {LIMITS[0]:g} x the layer's mean")
    for shade, color, limit in zip(SHADES[1:], COLORS[1:], LIMITS, strict=True):
        legend.append(", ").append(shade, style=color).append(f" from {limit:g}")
    return legend
