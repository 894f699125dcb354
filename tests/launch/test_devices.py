"""CUDA devices are counted before a rank is started, as its torch would count them, and too few are refused."""

from __future__ import annotations

import ctypes
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.plans import planned
from tests.support.tiny_chat import write_tiny_chat
from weft.errors import ConfigError
from weft.launch import devices
from weft.launch import plan as plans
from weft.launch.devices import cuda_devices

BUILT = '__version__ = "9.1+x"\ncuda = {cuda!r}\nhip = {hip!r}\n'
"""torch's own module that says what it was built for."""


class Driver:
    """CUDA's library, with so many devices; `fails`: what its calls give."""

    def __init__(self, devices: int, fails: int = 0) -> None:
        self.devices, self.fails = devices, fails

    def cuInit(self, flags: int) -> int:
        return self.fails

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0


@pytest.mark.parametrize(
    ("build", "driver", "count"),
    [
        ({"cuda": None, "hip": None}, Driver(8), 0),
        ({"cuda": "13.0", "hip": None}, Driver(8), 8),
        ({"cuda": "13.0", "hip": None}, None, 0),
        ({"cuda": "13.0", "hip": None}, Driver(8, fails=100), 0),
        ({"cuda": "13.0", "hip": None}, Driver(8, fails=999), None),
        ({"cuda": None, "hip": "6.4"}, Driver(0), None),
    ],
)
def test_devices_are_those_that_torch_is_built_for_and_the_driver_has(
    build: dict[str, object], driver: Driver | None, count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Driver:
        if driver is None:
            raise OSError(name)
        return driver

    (tmp_path / "version.py").write_text(BUILT.format(**build))
    found = ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(devices, "find_spec", lambda name: found)
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert cuda_devices() == (count, "9.1+x")


def test_without_torch_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    assert cuda_devices() == (None, "")


def test_here_the_count_is_torchs() -> None:
    assert cuda_devices() in ((torch.cuda.device_count(), torch.__version__), (None, torch.__version__))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, r"^device cuda: this process sees 0 CUDA devices \(torch 9\), and rank 0 .* its own; legal here: cpu$"),
        (2, r"sees 2 CUDA devices \(torch 9\), and rank 2 \(replica 2\) needs .*; legal here: cpu, or 2 replicas$"),
        (3, None),
        (None, None),
    ],
)
def test_a_plan_is_refused_where_a_rank_would_have_none(
    count: int | None, text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "cuda_devices", lambda: (count, "9"))
    model = write_tiny_chat(tmp_path / "tiny")
    if text is None:
        assert planned(model, {"replicas": 3}, device="cuda").layout.world == 3
        return
    with pytest.raises(ConfigError, match=text) as caught:
        planned(model, {"replicas": 3}, device="cuda")
    assert (caught.value.field, caught.value.legal) == ("device", ("cpu",))
