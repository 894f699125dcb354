"""Benchmarks as a picture, by matplotlib where it is installed (the extra `pictures`). Reads records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from weft.base.errors import ConfigError
from weft.tools.bench.stats import Summary, by_load, middle

KINDS = (".png", ".svg", ".pdf")
PANELS = (
    ("output tokens/s", "output_rate", ""),
    ("TTFT, ms", "ttft", "p50 p90 p99"),
    ("TPOT, ms", "tpot", "p50 p90 p99"),
    ("ITL, ms", "itl", "p50 p90 p99"),
)
STYLES = {"p50": "-", "p90": "--", "p99": ":"}


def check_plot(path: Path) -> None:
    """Called before anything is measured. ConfigError: no matplotlib, a kind of file it is not for, no such folder."""
    if path.suffix not in KINDS:
        raise ConfigError(f"plot {path}: legal endings: {', '.join(KINDS)}", field="plot", value=str(path), legal=KINDS)
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"plot {path}: no such folder", field="plot", value=str(path))
    _matplotlib()


def save_plot(path: Path, title: str, series: Mapping[str, Sequence[Summary]]) -> None:
    """One line for each series and percentile, over the loads."""
    figure = _matplotlib().Figure(figsize=(11, 7.5), layout="constrained")
    figure.suptitle(title)
    loads = list(dict.fromkeys(load for summaries in series.values() for load in by_load(summaries)))
    for axes, (label, name, shares) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        axes.set_title(label)
        axes.set_xticks(range(len(loads)), [str(load) for load in loads])
        axes.grid(alpha=0.3)
        for number, (who, summaries) in enumerate(series.items()):
            grouped = by_load(summaries)
            for share in shares.split() or [""]:
                values = [_value(grouped.get(load, []), name, share) for load in loads]
                axes.plot(
                    range(len(loads)), values, STYLES.get(share, "-"), color=f"C{number}", marker="o", markersize=3,
                    label=f"{who} {share}".strip() if len(series) > 1 else share or None,
                )  # fmt: skip
        axes.set_ylim(bottom=0)
        if shares or len(series) > 1:
            axes.legend(fontsize="small")
    figure.savefig(path)


def _value(many: Sequence[Summary], name: str, share: str) -> float:
    value = middle(getattr(getattr(one, name), share) if share else getattr(one, name) for one in many)
    return float("nan") if value is None else value


def _matplotlib() -> Any:
    try:
        return import_module("matplotlib.figure")
    except ImportError:
        raise ConfigError(
            'a plot needs matplotlib, which is not installed: pip install "weft[pictures]", or leave --plot out',
            field="plot",
        ) from None
