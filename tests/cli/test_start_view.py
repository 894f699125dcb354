"""What a start says: few lines at level info, and the phases of a start that fails."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.base.errors import PeerError
from weft.base.settings import EngineConfig
from weft.cli.view.phases import phase_view
from weft.cli.view.summary import details, one_line, summary
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.layout import Given
from weft.parallel.layout.resolve import resolve
from weft.runtime.ipc.phases import EAGER, ORDER, Phase, PhaseChange
from weft.runtime.launch_plan.plan import plan_launch


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"attention.tp": 1}, ["1 rank "]),
        ({"replicas": 2, "attention.tp": 1}, ["2 ranks", "2 replicas of 1 rank"]),
        ({"attention.tp": 1, "attention.dp": 2, "dense.tp": 2}, ["2 ranks", "attention tp 1 x dp 2", "dense tp 2"]),
        ({"attention.tp": 2, "attention.cp": 2, "attention.kv_split": 2}, ["4 ranks", "tp 2 x cp 2 (kv_split 2)"]),
    ],
)
def test_a_layout_fits_one_line(given: Given, parts: list[str]) -> None:
    said = one_line(resolve(given, None, None, num_experts=0))
    assert all(part in said for part in parts) and "\n" not in said


def test_a_summary_is_short_and_details_have_the_rest(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_chat(tmp_path / "tiny"))
    layout = resolve({"attention.dp": 2, "attention.tp": 1, "dense.tp": 2}, None, None, num_experts=0)
    plan = plan_launch(checkpoint, layout, EngineConfig())
    said = list(summary("tiny", plan))
    assert [line.partition(" ")[0] for line in said] == ["model", "layout:", "memory:", "starting"]
    assert "requests of up to 256 tokens" in said[2] and said[3].startswith("starting 2 ranks;")
    every = "\n".join(details("tiny", plan))
    assert "attention: {tp: 1, dp: 2" in every and "max_num_seqs 64" in every and "rank 1 (dp 1): weights" in every


def change(rank: int, phase: Phase, at_s: float) -> PhaseChange:
    return PhaseChange(rank, f"rank {rank}", phase, "", at_s)


def test_phases_are_shown_only_of_a_start_that_fails() -> None:
    with phase_view(["rank 0"], out := io.StringIO(), every=False) as view:
        for at, phase in enumerate(ORDER):
            view.show(change(0, phase, float(at)))
    assert out.getvalue() == ""
    with pytest.raises(PeerError), phase_view(["rank 0", "rank 1"], out, every=False) as view:
        view.show(change(1, Phase.SPAWN, 0.2))
        for at, phase in enumerate(ORDER):
            view.show(change(0, phase, float(at)))
        view.show(change(1, Phase.LOAD, 2.5))
        raise PeerError("rank 1 died")
    assert out.getvalue().splitlines() == ["[  0.20 s] rank 1 spawn", "[  2.50 s] rank 1 load"]


def test_slower_steps_are_named_once() -> None:
    out = io.StringIO()
    with phase_view(["rank 0", "rank 1"], out, every=False) as view:
        for rank in (0, 1):
            detail = f"threads; steps run as {EAGER} (gloo)"
            view.show(PhaseChange(rank, f"rank {rank}", Phase.WARM_UP, detail, 1.0))
    assert out.getvalue() == f"note: steps run {EAGER}, which is slower (gloo)\n"


def test_every_phase_is_shown_where_all_are_wanted() -> None:
    with phase_view(["rank 0"], out := io.StringIO()) as view:
        view.show(change(0, Phase.LOAD, 1.0))
    assert out.getvalue() == "[  1.00 s] rank 0 load\n"
