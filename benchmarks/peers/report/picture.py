"""Rows as a picture: a panel of bars for every case, ours in colour, least and most as whiskers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers.cases import SERVED
from benchmarks.peers.report.summary import Row, columns
from weft.base.plural import counted
from weft.tools.bench.compare import Measured

OURS, THEIRS = "#0b6e5f", "#b8bfc6"
ACROSS = 4


def panels(rows: Sequence[Row]) -> list[tuple[str, list[tuple[Row, Measured]]]]:
    """Title and bars of each panel, those that have any."""
    found = []
    for case, quantity in columns():
        bars = [(row, value) for row in rows if (value := row.figures.get((case.name, quantity)))]
        found.append((f"{case.name}, {quantity}" if case.name != quantity else case.name, bars))
    for case in SERVED:
        bars = [(row, value) for row in rows if (value := row.served.get((case.name, "output")))]
        found.append((f"over HTTP, {counted(case.streams, 'stream')}", bars))
    return [(title, bars) for title, bars in found if bars]


def draw(title: str, rows: Sequence[Row], path: Path) -> None:
    """Writes the picture; nothing where there are no figures."""
    if not (shown := panels(rows)):
        return
    down = -(-len(shown) // ACROSS)
    most = max(len(bars) for _, bars in shown)
    figure = Figure(figsize=(4.2 * ACROSS, down * (1.1 + 0.27 * most)))
    grid = figure.subplots(down, ACROSS, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.axis("off")
    for axes, (name, bars) in zip(grid.flat, shown, strict=False):
        _panel(axes, name, bars)
    figure.suptitle(f"{title}: tokens per second, median, least and most")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _panel(axes: Axes, name: str, bars: Sequence[tuple[Row, Measured]]) -> None:
    middles = [value.median for _, value in bars]
    below = [value.median - value.low for _, value in bars]
    above = [value.high - value.median for _, value in bars]
    colours = [OURS if row.engine.ours else THEIRS for row, _ in bars]
    axes.barh([row.engine.name for row, _ in bars], middles, xerr=[below, above], color=colours, ecolor="#444444")
    for place, middle in enumerate(middles):
        axes.text(0, place, f" {middle:.0f}", va="center", fontsize=8)
    axes.set_title(name, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
