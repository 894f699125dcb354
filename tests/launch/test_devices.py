"""A torch that is built for CPUs alone is known before a rank is started, and what needs a device is refused."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from tests.support.plans import planned
from tests.support.tiny_chat import write_tiny_chat
from weft.errors import ConfigError
from weft.launch import devices
from weft.launch import plan as plans
from weft.launch.devices import too_few, torch_without_devices

BUILT = '__version__ = "9.1+x"\ncuda = {cuda!r}\nhip = {hip!r}\n'
"""torch's own module that says what it was built for."""


@pytest.mark.parametrize(("cuda", "hip", "version"), [(None, None, "9.1+x"), ("13.0", None, None), (None, "6.4", None)])
def test_what_torch_was_built_for(
    cuda: str | None, hip: str | None, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version.py").write_text(BUILT.format(cuda=cuda, hip=hip))
    found = ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(devices, "find_spec", lambda name: found)
    assert torch_without_devices() == version


def test_without_torch_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    assert torch_without_devices() is None


def test_here_it_is_what_torch_says() -> None:
    plain = torch.version.cuda is None and torch.version.hip is None
    assert torch_without_devices() == (torch.__version__ if plain else None)


@pytest.mark.parametrize("version", ["9", None])
def test_a_plan_is_refused_where_no_rank_could_have_one(
    version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "torch_without_devices", lambda: version)
    model = write_tiny_chat(tmp_path / "tiny")
    if version is None:
        assert planned(model, {"replicas": 3}, device="cuda").layout.world == 3
        return
    text = r"^device cuda: this process sees 0 CUDA devices \(torch 9\), and rank 0 .* its own; legal here: cpu$"
    with pytest.raises(ConfigError, match=text) as caught:
        planned(model, {"replicas": 3}, device="cuda")
    assert (caught.value.field, caught.value.legal) == ("device", ("cpu",))


def test_a_rank_names_the_ranks_that_there_are_devices_for() -> None:
    assert str(too_few(2, "9", "rank 2")).endswith("sees 2 CUDA devices (torch 9), and rank 2 needs one of its own;"
        " legal here: cpu, at most 2 ranks, or a larger --ranks-per-device")  # fmt: skip
    assert str(too_few(1, "9", "rank 4", 4)).endswith("sees 1 CUDA device (torch 9), and rank 4 needs one for 4 of"
        " them; legal here: cpu, at most 4 ranks, or a larger --ranks-per-device")  # fmt: skip


def test_ranks_share_devices_alone(tmp_path: Path) -> None:
    text = "^ranks_per_device 2: ranks share CUDA devices; give --device cuda, or leave it out$"
    with pytest.raises(ConfigError, match=text) as caught:
        planned(write_tiny_chat(tmp_path / "tiny"), {"replicas": 2}, ranks_per_device=2)
    assert caught.value.field == "ranks_per_device"
