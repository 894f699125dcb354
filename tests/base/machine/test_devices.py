"""A torch that is built for CPUs alone is known before a rank is started, and what needs a device is refused."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from tests.support.plans import planned
from tests.support.tiny_chat import write_tiny_chat
from weft.base.errors import ConfigError
from weft.base.machine import devices
from weft.base.machine.devices import too_few, torch_without_devices
from weft.runtime.ipc.messages import Setup
from weft.runtime.launch_plan import resolved_engine
from weft.runtime.worker import build

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
    monkeypatch.setattr(resolved_engine, "torch_without_devices", lambda: version)
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


def test_a_rank_computes_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))

    def of(local: int, sharing: int, device: str = "cuda") -> Setup:
        engine = SimpleNamespace(device=device, ranks_per_device=sharing)
        return cast(Setup, SimpleNamespace(local=local, world=SimpleNamespace(engine=engine), where=f"rank {local}"))

    assert str(build.device_of(of(3, 2))) == "cuda:1" and taken == [1]
    assert str(build.device_of(of(1, 1))) == "cuda:1"
    assert str(build.device_of(of(3, 1, "cpu"))) == "cpu" and taken == [1, 1]
    with pytest.raises(ConfigError, match="sees 2 CUDA devices"):
        build.device_of(of(4, 2))
    assert build.free_bytes(torch.device("cuda:1"), 4) == 250 and build.free_bytes(torch.device("cpu"), 1) is None


def test_no_more_ranks_share_a_device_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolved_engine, "torch_without_devices", lambda: None)
    model = write_tiny_chat(tmp_path / "tiny")
    plan = planned(model, {"replicas": 2}, device="cuda", ranks_per_device=2)
    assert any("device cuda (2 ranks on each)" in line for line in plan.settings())
    with pytest.raises(ConfigError, match="ranks_per_device 3: the layout has 2 ranks; legal: 1 to 2$"):
        planned(model, {"replicas": 2}, device="cuda", ranks_per_device=3)
    with pytest.raises(ConfigError, match="ranks_per_device 3: the layout has 1 rank; legal: 1$"):
        planned(model, {}, device="cuda", ranks_per_device=3)


def test_ranks_share_devices_alone(tmp_path: Path) -> None:
    text = "^ranks_per_device 2: ranks share CUDA devices; give --device cuda, or leave it out$"
    with pytest.raises(ConfigError, match=text) as caught:
        planned(write_tiny_chat(tmp_path / "tiny"), {"replicas": 2}, ranks_per_device=2)
    assert caught.value.field == "ranks_per_device"
