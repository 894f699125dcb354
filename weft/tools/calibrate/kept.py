"""What was measured, as a file ("weft.calibration/1"): seconds of products by shape and rows, of one machine and build.
Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from weft.base.errors import ConfigError
from weft.tools.plan.clusters import HERE_LINK, Rates

SCHEMA = "weft.calibration/1"
ROWS = (1, 2, 8, 32, 128, 512)
"""Row counts at which every product is measured."""


class MeasuredProduct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`seconds` at each of `rows`, with `threads`; `nbytes` of its weights, as they are packed."""

    depth: int
    columns: int
    dtype: str
    quantization: str
    threads: int
    nbytes: int
    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """What another measurement of the same has."""
        return self.depth, self.columns, self.dtype, self.quantization, self.threads


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cpu`: its name; `build`: of the step library; `date`: of the latest measurement."""

    schema: str
    cpu: str
    build: str
    date: str
    products: tuple[MeasuredProduct, ...]


@dataclass(frozen=True, slots=True)
class ProductShape:
    """A product of a model on one rank."""

    depth: int
    columns: int


def read(path: Path, cpu: str, build: str) -> Calibration | None:
    """None: no such file. ConfigError: another schema, CPU or build, or no calibration at all."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"calibration {path}: {error}; weft calibrate writes it anew", field="calibration") from None
    for name, theirs, ours in (
        ("schema", found.schema, SCHEMA),
        ("cpu", found.cpu, cpu),
        ("build", found.build, build),
    ):
        if theirs != ours:
            raise ConfigError(
                f"calibration {path}: {name} {theirs}, here it is {ours}; remove it, and run weft calibrate",
                field=name,
                value=theirs,
                legal=(ours,),
            )
    return found


def merged(old: Calibration | None, new: Calibration) -> Calibration:
    """All products of both, the newer where both have one."""
    products = {one.key: one for each in (old, new) if each is not None for one in each.products}
    return msgspec.structs.replace(new, products=tuple(products[key] for key in sorted(products, key=str)))


def rates_of(found: Calibration, path: Path, dtype: str, cores: int) -> Rates | None:
    """Of one core: bytes a second at one row, multiplications a second at most rows, and the shortest product. None:
    nothing of this dtype was measured with all cores."""
    own = [one for one in found.products if one.dtype == dtype and one.threads == cores]
    if not own:
        return None
    bandwidth = max(one.nbytes / one.seconds[0] for one in own) / cores
    products = max(
        rows * one.depth * one.columns / seconds
        for one in own
        for rows, seconds in zip(one.rows, one.seconds, strict=True)
    )
    floor = min(min(one.seconds) for one in own)
    source = f"products measured here ({path}, {found.date}, {found.build}); collectives and a step's floor assumed"
    return Rates(
        bandwidth, products / cores, HERE_LINK, HERE_LINK, source, product_floor=floor, step_floor=1e-3, measured=True
    )
