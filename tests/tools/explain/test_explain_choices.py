"""What a CPU decides of memory, as `weft explain` counts it: as asked, or as this machine would, which is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weft.base.settings import EngineConfig
from weft.cli.args import quantization as quantization_args
from weft.cli.main import main
from weft.parallel.arch.families import parse_config
from weft.parallel.arch.quantization import WeightStorage
from weft.parallel.layout import resolve
from weft.tools.explain import explain
from weft.tools.explain.choices import KernelChoices, Machine, choices_of
from weft.tools.explain.largest import largest_bytes

CONFIG = parse_config(json.loads((Path(__file__).parent / "data" / "config.json").read_text()))
ABLE, UNABLE = Machine("able", compresses=True), Machine("unable", compresses=False)
Capture = pytest.CaptureFixture[str]


def chosen(machine: Machine, **given: Any) -> KernelChoices:
    return choices_of(EngineConfig(**{"dtype": "bfloat16", **given}), machine)


@pytest.mark.parametrize(("machine", "able"), [(ABLE, True), (UNABLE, False)])
def test_what_is_not_asked_is_as_the_machine_has_it_and_said(machine: Machine, able: bool) -> None:
    found = chosen(machine)
    assert found.compressed == able
    assert [note.code for note in found.notes] == (["compressed"] if able else ["not_compressed"])
    assert all(f"CPU ({machine.name})" in note.message for note in found.notes)


@pytest.mark.parametrize("layout", [{"attention.cp": 2}, {"attention.tp": 6, "attention.kv_split": 2}])
def test_contexts_that_ranks_share_are_not_served_on_devices(layout: dict[str, object]) -> None:
    for device in ("cpu", "cuda"):
        choices = chosen(ABLE, device=device)
        notes = explain("m", CONFIG, resolve(layout), dtype="bfloat16", choices=choices).notes
        assert any(note.code == "not_served" for note in notes) == (device == "cuda")


@pytest.mark.parametrize("machine", [ABLE, UNABLE])
@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_is_the_same_for_every_machine(machine: Machine, asked: bool) -> None:
    found = chosen(machine, compress_weights=asked)
    assert found.compressed == asked
    assert not any(machine.name in note.message for note in found.notes)


def test_rows_of_an_embedding_that_every_rank_has_whole_are_packed_once_more() -> None:
    layout = resolve({"attention.tp": 2, "embedding.tp": 1})
    head = CONFIG.vocab_size // 2 * CONFIG.hidden_size * 2
    for packed in (True, False):
        report = explain("m", CONFIG, layout, dtype="bfloat16", storage=WeightStorage(packed=packed))
        assert [rank.bytes["lm_head"] for rank in report.ranks] == [head * packed] * 2
        assert report.tied_view is not packed
        code = "tied_packed_again" if packed else "tied_one_copy"
        assert code in {note.code for note in report.notes}


def explained(capsys: Capture, *words: str) -> dict[str, Any]:
    assert main(["explain", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_options_decide_what_is_counted(capsys: Capture) -> None:
    whole = explained(capsys, "--no-compress-weights")
    short = explained(capsys, "--compress-weights")
    assert (whole["compressed"], short["compressed"]) == (False, True)
    (one,), (other,) = whole["ranks"], short["ranks"]
    assert 0.75 < other["param_bytes"] / one["param_bytes"] < 0.76


def test_without_an_option_this_machine_decides(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in (ABLE, UNABLE):
        monkeypatch.setattr(quantization_args, "_machine", lambda machine=machine: machine)
        found = explained(capsys)
        assert found["compressed"] == machine.compresses


def test_without_the_c_parts_nothing_is_decided_for_them(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_NATIVE", "0")
    found = explained(capsys)
    assert not found["compressed"]
    assert any("CPU (without C++ parts)" in note["message"] for note in found["notes"])


def test_where_all_take_their_largest_logit_less_moves(capsys: Capture) -> None:
    """One pair of 16 bytes a row from each other rank."""
    assert largest_bytes(resolve({"attention.tp": 3}), (1, 8)) == (2 * 16, 2 * 8 * 16)
    others: list[dict[str, object]] = [{}, {"attention.tp": 4, "lm_head.tp": 2}, {"attention.dp": 2, "lm_head.tp": 2}]
    for other in others:
        assert largest_bytes(resolve(other), (1,)) == ()
    assert main(["explain", "--tp", "3", "--dtype", "float32"]) == 0
    assert capsys.readouterr().out.count("with greedy decoding in every row: at most") == 2
    assert main(["explain", "--tp", "3", "--dtype", "float32", "--enforce-eager"]) == 0
    assert "greedy decoding" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("storage", "layout", "cuts"),
    [
        ("int8", {"dense.tp": 5}, False),
        ("int4", {"lm_head.tp": 5}, False),
        ("int4", {"dense.tp": 3}, False),
        ("int4", {"dense.tp": 5}, True),
        ("none", {"dense.tp": 5}, False),
        ("gguf", {"dense.tp": 5}, False),
    ],
)
def test_where_groups_of_4_bits_are_cut(storage: str, layout: dict[str, Any], cuts: bool) -> None:
    """Of 1,536 numbers a third are whole groups of 32, a fifth are not."""
    assert CONFIG.intermediate_size == 1536
    given = {"attention.dp": max(layout.values()), "o_proj.tp": 1, "dense.tp": 1, "lm_head.tp": 1, **layout}
    report = explain("model", CONFIG, resolve(given), dtype="bfloat16", storage=WeightStorage(storage))
    assert ("cuts_groups" in {note.code for note in report.notes}) == cuts


def messages(found: dict[str, Any]) -> list[str]:
    return [note["message"] for note in found["notes"]]
