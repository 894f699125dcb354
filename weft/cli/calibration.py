"""Where this machine's calibration is kept, and of what: `weft calibrate` writes it, `weft plan` reads it."""

from __future__ import annotations

from pathlib import Path

from weft.base.errors import ConfigError
from weft.compute.native.libraries import chosen, stem
from weft.model.checkpoint.hub.embedded import cache_dir
from weft.tools.bench.machine import machine
from weft.tools.calibrate.kept import rates_of, read
from weft.tools.plan.clusters import Rates


def calibration_file() -> Path:
    """The one that is read where none is named."""
    return cache_dir() / "calibration.json"


def cpu_here() -> str:
    """The processor's name."""
    return str(machine()["cpu"])


def build_here() -> str:
    """The step library: its sources and this CPU's features."""
    return stem(chosen("step"))


def rates_here(file: Path | None, dtype: str, cores: int) -> Rates | None:
    """What was measured, in `file` or where it is kept; None: nothing of this dtype and number of cores. ConfigError: a
    file that is named and missing, or of another schema, CPU or build."""
    path = file or calibration_file()
    found = read(path, cpu_here(), build_here())
    if found is None and file is not None:
        raise ConfigError(
            f"calibration {file}: no such file; weft calibrate --save {file} writes it", field="calibration"
        )
    return None if found is None else rates_of(found, path, dtype, cores)
