"""What a CPU decides of memory, as `weft explain` counts it: as asked, or as this machine would, which is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weft.arch.bounds import argmax_sketch_bytes
from weft.arch.families import parse_config
from weft.arch.quantization import WeightStorage
from weft.cli.args import quantization as quantization_args
from weft.cli.main import main
from weft.explain import explain
from weft.explain.choices import KernelChoices, Machine, choices_of
from weft.explain.fits import Budget, StepLoad, fit
from weft.explain.largest import largest_bytes
from weft.layout import resolve
from weft.native import libraries
from weft.settings import EngineConfig

CONFIG = parse_config(json.loads((Path(__file__).parent / "data" / "config.json").read_text()))
ABLE, UNABLE = Machine("able", compresses=True, prunes=True), Machine("unable", compresses=False, prunes=False)
Capture = pytest.CaptureFixture[str]


def chosen(machine: Machine, layout: dict[str, object] | None = None, **given: Any) -> KernelChoices:
    return choices_of(EngineConfig(**{"dtype": "bfloat16", **given}), resolve(layout or {}), machine, 7)


@pytest.mark.parametrize(("machine", "able"), [(ABLE, True), (UNABLE, False)])
def test_what_is_not_asked_is_as_the_machine_has_it_and_said(machine: Machine, able: bool) -> None:
    found = chosen(machine)
    assert (found.compressed, found.pruned_rows) == (able, 7 * able)
    assert [note.code for note in found.notes] == (
        ["compressed", "bounds"] if able else ["not_compressed", "no_bounds"]
    )
    assert all(f"CPU ({machine.name})" in note.message for note in found.notes)


@pytest.mark.parametrize("layout", [{"attention.cp": 2}, {"attention.tp": 6, "attention.kv_split": 2}])
def test_contexts_that_ranks_share_are_not_served_on_devices(layout: dict[str, object]) -> None:
    for device in ("cpu", "cuda"):
        choices = chosen(ABLE, layout, device=device)
        notes = explain("m", CONFIG, resolve(layout), dtype="bfloat16", choices=choices).notes
        assert any(note.code == "not_served" for note in notes) == (device == "cuda")


@pytest.mark.parametrize("machine", [ABLE, UNABLE])
@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_is_the_same_for_every_machine(machine: Machine, asked: bool) -> None:
    found = chosen(machine, compress_weights=asked, prune_argmax=asked)
    assert (found.compressed, found.pruned_rows) == (asked, 7 * asked)
    assert not any(machine.name in note.message for note in found.notes)


@pytest.mark.parametrize(
    ("given", "compressed", "bounded"),
    [
        ({"dtype": "float32"}, False, False),
        ({"device": "cuda"}, False, False),
        ({"enforce_eager": True}, True, False),
        ({"quantization": "int8"}, False, True),
        ({"quantization": "gguf"}, True, True),
    ],
)
def test_only_bf16_on_a_cpu_is_compressed_and_bounded(given: dict[str, Any], compressed: bool, bounded: bool) -> None:
    found = chosen(ABLE, **given)
    assert (found.compressed, found.pruned_rows > 0) == (compressed, bounded)


def test_a_layout_whose_logits_come_together_has_no_bounds() -> None:
    apart: dict[str, object] = {"attention.tp": 2, "lm_head.tp": 1}
    found = chosen(ABLE, apart)
    assert found.pruned_rows == 0 and found.notes[-1].code == "no_bounds"
    warning = chosen(ABLE, apart, prune_argmax=True).notes[-1]
    assert (warning.level, warning.code) == ("warning", "not_served")
    assert warning.message.endswith("bring their logits together; leave --prune-argmax out")


def test_bounds_stand_beside_the_weights_and_count_where_memory_is_given() -> None:
    layout, choices = resolve({}, tp=2), KernelChoices(pruned_rows=128)
    report = explain("m", CONFIG, layout, dtype="bfloat16", choices=choices)
    plain = explain("m", CONFIG, layout, dtype="bfloat16")
    nbytes = argmax_sketch_bytes(CONFIG.vocab_size // 2, CONFIG.hidden_size, 128, few_only=False)
    assert [rank.bounds for rank in report.ranks] == [nbytes] * 2 and not any(rank.bounds for rank in plain.ranks)
    assert [rank.total for rank in report.ranks] == [rank.total for rank in plain.ranks]
    with_bounds, without = (
        fit(CONFIG, layout, StepLoad(2048, 64, 2, pruned_rows=rows), Budget(1 << 30)).tightest.left for rows in (128, 0)
    )
    assert without - with_bounds == nbytes


def test_only_the_last_stage_has_bounds() -> None:
    report = explain(
        "m", CONFIG, resolve({"pipeline.stages": 2}), dtype="bfloat16", choices=KernelChoices(pruned_rows=8)
    )
    assert [rank.bounds > 0 for rank in report.ranks] == [False, True]


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
    whole = explained(capsys, "--no-compress-weights", "--no-prune-argmax")
    short = explained(capsys, "--compress-weights", "--prune-argmax")
    assert (whole["compressed"], short["compressed"]) == (False, True)
    (one,), (other,) = whole["ranks"], short["ranks"]
    assert 0.75 < other["param_bytes"] / one["param_bytes"] < 0.76
    assert one["argmax_sketch_bytes"] == 0 and 43 < other["argmax_sketch_bytes"] / 2**20 < 45
    for activations, least in (("int8", 16), ("full", 43)):
        words = ("--quantization", "int8", "--activations", activations, "--prune-argmax")
        (coded,) = explained(capsys, *words)["ranks"]
        assert least < coded["argmax_sketch_bytes"] / 2**20 < least + 2


def test_without_an_option_this_machine_decides(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in (ABLE, UNABLE):
        monkeypatch.setattr(quantization_args, "_machine", lambda machine=machine: machine)
        found = explained(capsys)
        assert found["compressed"] == machine.compresses
        assert (found["ranks"][0]["argmax_sketch_bytes"] > 0) == machine.prunes


def test_without_the_c_parts_nothing_is_decided_for_them(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_NATIVE", "0")
    found = explained(capsys)
    assert not found["compressed"] and found["ranks"][0]["argmax_sketch_bytes"] == 0
    assert any("CPU (without C++ parts)" in note["message"] for note in found["notes"])


def test_rounded_rows_change_no_byte_but_those_of_bounds_and_that_is_said(capsys: Capture) -> None:
    words = ("--quantization", "int8", "--no-prune-argmax", "--activations")
    full, rounded = (explained(capsys, *words, each) for each in ("full", "int8"))
    for found, value, how in ((full, "full", "not quantized"), (rounded, "int8", "int8")):
        message = f"activations {value}: activations are {how}; that changes only the copy of lm_head for prune_argmax"
        assert message in [note["message"] for note in found.pop("notes")]
    assert full == rounded
    assert main(["explain", "--activations", "int8"]) == 78


def test_where_all_take_their_largest_logit_less_moves(capsys: Capture) -> None:
    """One pair of 16 bytes a row from each other rank, one more, and with bounds another of each row before."""
    layout = resolve({"attention.tp": 3})
    assert largest_bytes(layout, (1, 8), False) == (2 * 32, 2 * 9 * 16)
    assert largest_bytes(layout, (1, 8), True) == (2 * 48, 2 * 17 * 16)
    others: list[dict[str, object]] = [{}, {"attention.tp": 4, "lm_head.tp": 2}, {"attention.dp": 2, "lm_head.tp": 2}]
    for other in others:
        assert largest_bytes(resolve(other), (1,), False) == ()
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


@pytest.mark.parametrize(
    ("variant", "quantization", "how"), [("avx2", "int4", "int8"), ("avx2", "int8", "not quantized")]
)
def test_rows_are_counted_as_this_cpu_has_them_whether_its_kernels_are_built_or_not(
    variant: str, quantization: str, how: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.cli.args.quantization.isa.chosen", lambda: variant)
    monkeypatch.setattr(libraries, "find", lambda name: None)
    words = ("--quantization", quantization, "--prune-argmax")
    found = explained(capsys, *words)
    asked = explained(capsys, *words, "--activations", "int8" if how == "int8" else "full")
    assert found["ranks"] == asked["ranks"]
    message = f"the default of this CPU ({variant}); that changes only the copy of lm_head for prune_argmax"
    assert any(f"with quantized weights activations are {how}" in text and message in text for text in messages(found))


def messages(found: dict[str, Any]) -> list[str]:
    return [note["message"] for note in found["notes"]]
