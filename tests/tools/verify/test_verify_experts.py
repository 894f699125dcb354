"""`weft verify` on mixtures of experts: experts spread, shared and in replicas; a placement file; faults of experts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.exact_model import write_random
from weft.cli.main import main
from weft.compute.ops.native.packed import slots_held
from weft.compute.ops.slot_tables import SlotTables
from weft.model.layers import Experts

Capture = pytest.CaptureFixture[str]
SPREAD = ("--attn-dp-size", "2", "--moe-ep-size", "2")


@pytest.fixture(scope="module", params=["experts", "latent"])
def mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random(tmp_path_factory.mktemp("verify-experts"), request.param))


def verify(model: str, *words: str) -> int:
    return main(["verify", model, "--tokens", "3", "--comm", "lockstep", "--json", *words])


@pytest.mark.parametrize(
    "words",
    [
        (*SPREAD, "--expert-slots", "8", "--moe-dispatch", "all_to_all"),
        (*SPREAD, "--expert-slots", "10", "--moe-dispatch", "all_gather"),
        ("--attn-dp-size", "2", "--moe-tp-size", "2"),
        ("--tp", "2"),
    ],
    ids=" ".join,
)
def test_layouts_of_experts_agree(mixture: str, words: tuple[str, ...], capsys: Capture) -> None:
    assert verify(mixture, "--dtype", "float64", *words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["agrees"] and found["world"] == 2 and found["lockstep"]["largest_difference"] < 1e-10


def test_a_placement_file_decides_where_experts_stand(
    mixture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    config = json.loads((Path(mixture) / "config.json").read_text())
    experts = config.get("num_experts", config.get("n_routed_experts"))
    first = config.get("first_k_dense_replace", 0)
    backwards = [*reversed(range(experts)), *[0] * (8 - experts)]
    file = tmp_path / "slots.yaml"
    rows = "".join(f"  {layer}: {backwards}\n" for layer in range(first, config["num_hidden_layers"]))
    file.write_text(f"num_slots: 8\nlayer_updates_per_iter: 0\ninitial_global_assignments:\n{rows}")
    placed: list[list[int]] = []
    place = SlotTables.place

    def spy(self: SlotTables, slot_map: Sequence[int]) -> None:
        placed.append(list(slot_map))
        place(self, slot_map)

    monkeypatch.setattr(SlotTables, "place", spy)
    assert verify(mixture, *SPREAD, "--expert-slots", "8", "--expert-placement", str(file)) == 0
    assert json.loads(capsys.readouterr().out)["agrees"]
    layers = config["num_hidden_layers"] - first
    assert placed == [list(range(experts))] * layers + [backwards] * 2 * layers, "one rank in order, two by the file"


@pytest.mark.parametrize("dispatch", ["all_gather", "all_to_all"])
def test_a_slot_that_answers_nothing_is_named(
    dispatch: str, mixture: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The first slot of the second rank holds zeros; a single rank has no such slot."""
    original = Experts.__init__

    def faulty(self: Experts, *args: Any, **named: Any) -> None:
        original(self, *args, **named)
        if self.tables.here[0]:
            for part in slots_held(self.down):
                part[0].zero_()

    monkeypatch.setattr(Experts, "__init__", faulty)
    assert verify(mixture, *SPREAD, "--expert-slots", "6", "--moe-dispatch", dispatch) == 1
    assert re.fullmatch(r"layers\.\d+\.experts", json.loads(capsys.readouterr().out)["first_difference"]["module"])


def test_what_only_happens_while_serving_is_refused(mixture: str, capsys: Capture) -> None:
    assert verify(mixture, *SPREAD, "--eplb") == 2
    assert "nothing moves" in capsys.readouterr().err
    assert verify(mixture, *SPREAD, "--expert-stats", "stats.json") == 2
    assert verify(mixture, *SPREAD, "--server-cpus", "0") == 2
    assert "verify has no front end and no engine" in capsys.readouterr().err
