"""What is kept of a calibration, and rates from it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.support.exact_model import exact_config
from weft.base.errors import ConfigError
from weft.base.settings import EngineConfig
from weft.cli.commands.calibrate import shapes_of
from weft.parallel.arch import parse_config
from weft.tools.calibrate.kept import ROWS, SCHEMA, Calibration, MeasuredProduct, ProductShape, merged, rates_of, read
from weft.tools.calibrate.products import timed


def made(columns: int, seconds: float = 1e-3, threads: int = 2) -> MeasuredProduct:
    times = tuple(seconds * max(1, rows / 64) for rows in ROWS)
    return MeasuredProduct(100, columns, "bfloat16", "none", threads, 200 * columns, ROWS, times)


def kept(*products: MeasuredProduct, **changes: str) -> Calibration:
    names = {"schema": SCHEMA, "cpu": "a", "build": "b", "date": "2026-01-01"} | changes
    return Calibration(**names, products=products)


def test_rates_are_the_best_that_was_measured() -> None:
    rates = rates_of(kept(made(10), made(1000), made(9, 1e-9, threads=1)), Path("f"), "bfloat16", 2)
    assert rates is not None and rates.measured
    assert rates.bandwidth == pytest.approx(200 * 1000 / 1e-3 / 2)
    assert rates.products == pytest.approx(64 * 100 * 1000 / 1e-3 / 2)
    assert rates.product_floor == 1e-3
    assert rates_of(kept(made(10)), Path("f"), "float32", 2) is None
    assert rates_of(kept(made(10)), Path("f"), "bfloat16", 3) is None


def test_a_newer_measurement_takes_the_place_of_an_older() -> None:
    both = merged(kept(made(10), made(20)), kept(made(20, 5.0), made(30)))
    assert {one.columns: one.seconds[0] for one in both.products} == {10: 1e-3, 20: 5.0, 30: 1e-3}
    assert merged(None, kept(made(10))) == kept(made(10))


@pytest.mark.parametrize("name", ["schema", "cpu", "build"])
def test_a_file_of_another_machine_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    assert read(file, "a", "b") is None
    file.write_bytes(msgspec.json.encode(kept(made(10))))
    assert read(file, "a", "b") == kept(made(10))
    file.write_bytes(msgspec.json.encode(kept(made(10), **{name: "other"})))
    with pytest.raises(ConfigError) as caught:
        read(file, "a", "b")
    assert caught.value.field == name
    file.write_text("[]")
    with pytest.raises(ConfigError):
        read(file, "a", "b")


def test_every_shape_of_a_model_is_timed() -> None:
    shapes = shapes_of(parse_config(exact_config("latent")))
    assert len(shapes) == len(set(shapes)) > 5
    (one,) = timed([ProductShape(64, 48)], EngineConfig(dtype="float32"), 1)
    assert one.rows == ROWS and all(seconds > 0 for seconds in one.seconds)
    assert one.nbytes >= 64 * 48 * 4 and one.threads == 1
