"""Draws a heat map as PNG or SVG with matplotlib, an optional dependency that only this module imports.

Needs no display.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from weft.base.errors import ConfigError
from weft.parallel.experts.pictures.heat_map import HeatMap

KINDS = (".png", ".svg")
INCHES_PER_COLUMN, INCHES_PER_ROW = 0.05, 0.12


def draw(heat_map: HeatMap, path: Path) -> None:
    """Writes the picture; its kind is the file's ending, one of KINDS. Raises ConfigError, also where matplotlib is
    missing or the file cannot be written."""
    if path.suffix not in KINDS:
        raise _error(path, f"the ending {path.suffix or '(none)'} is no picture; legal: {', '.join(KINDS)}")
    figure = _figure(heat_map)
    try:
        figure.savefig(path, format=path.suffix.removeprefix("."), dpi=150, bbox_inches="tight", metadata=_plain(path))
    except OSError as error:
        raise _error(path, error.strerror or str(error)) from None


def _figure(heat_map: HeatMap) -> Any:
    rows, columns = heat_map.values.shape
    size = (2 + max(4, columns * INCHES_PER_COLUMN), 1 + max(2, rows * INCHES_PER_ROW))
    figure = _matplotlib("matplotlib.figure").Figure(figsize=size)
    axes = figure.add_subplot()
    image = axes.imshow(heat_map.values, aspect="auto", cmap="magma", vmin=0, interpolation="nearest")
    axes.set_title(heat_map.title)
    axes.set_xlabel(heat_map.column)
    axes.set_ylabel("layer")
    step = max(1, rows // 20)
    axes.set_yticks(range(0, rows, step), [str(layer) for layer in heat_map.layers[::step]])
    figure.colorbar(image, ax=axes, label=heat_map.value)
    return figure


def _plain(path: Path) -> dict[str, None]:
    """No date inside, so that the same map gives the same file."""
    return {"Date": None} if path.suffix == ".svg" else {}


def _matplotlib(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"pictures need matplotlib, which cannot be imported ({error}): pip install 'weft[pictures]'; "
            "without --png and --svg the map is drawn on the terminal",
            field="pictures",
        ) from None


def _error(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path}: {reason}", field="pictures", value=str(path), legal=KINDS)
