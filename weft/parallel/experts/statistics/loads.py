"""Expert loads as an array, and what is refused: another shape, negative, NaN or infinite values, no load at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from weft.base.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

DIMS = {2: "[layers][experts]", 3: "[intervals][layers][experts]"}


def as_loads(values: object, where: str = "loads") -> FloatArray:
    """Loads as float64 [layers, experts]; intervals (a third, leading dim) are added up. `where` opens each message.

    A layer without load is legal: a dense layer of the model has none. Raises ConfigError otherwise as above.
    """
    try:
        loads = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        wanted = " or ".join(DIMS.values())
        raise _error(f"{where}: rows of different length, or not numbers; wanted {wanted}") from None
    if loads.ndim not in DIMS or 0 in loads.shape:
        shape = list(loads.shape)
        raise _error(f"{where}: shape {shape}; wanted {' or '.join(DIMS.values())}, none of them empty", shape)
    _check_values(loads, where)
    return loads if loads.ndim == 2 else cast(FloatArray, loads.sum(axis=0))


def _check_values(loads: FloatArray, where: str) -> None:
    for wrong, what in ((~np.isfinite(loads), "not a finite number"), (loads < 0, "negative")):
        if wrong.any():
            index = [int(i) for i in np.argwhere(wrong)[0]]
            dims = ("interval", "layer", "expert")[-loads.ndim :]
            place = ", ".join(f"{dim} {i}" for dim, i in zip(dims, index, strict=True))
            value = float(loads[tuple(index)])
            raise _error(f"{where}: load {value} of {place} is {what}; legal: 0 and above", value)
    if not loads.any():
        raise _error(f"{where}: every load is zero; at least one layer needs a load above 0", 0.0)


def check_shape(loads: FloatArray, layers: int, experts: int, where: str = "loads") -> None:
    """Raises ConfigError unless loads are [layers, experts]."""
    if loads.shape != (layers, experts):
        got = f"{loads.shape[0]} layers of {loads.shape[1]} experts"
        raise _error(f"{where}: {got}; wanted {layers} layers of {experts}", list(loads.shape), (layers, experts))


def normalized(loads: FloatArray) -> FloatArray:
    """Every layer's loads as shares of that layer (sum 1); layers without load get even shares, for they need slots
    too."""
    largest = loads.max(axis=1, keepdims=True)
    scaled = np.where(largest > 0, loads / np.where(largest > 0, largest, 1), 1.0)
    return cast(FloatArray, scaled / scaled.sum(axis=1, keepdims=True))


def _error(message: str, value: object = None, legal: Sequence[object] = ()) -> ConfigError:
    return ConfigError(message, field="loads", value=value, legal=legal)
