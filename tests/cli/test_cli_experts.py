"""`weft experts`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tests.support.expert_worlds import TRACES, trace_file
from weft.cli.main import main
from weft.parallel.experts.pictures import draw as pictures
from weft.parallel.experts.pictures.heat_map import load_map

STATS = str(trace_file(TRACES[0]))
WIDE = ("--slots", "288", "--ranks", "32")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What `weft experts WORDS...` prints; it must succeed."""
    code = main(["experts", *words])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def test_balance_json(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "balance", STATS, *WIDE, "--json"))
    assert document["schema"] == "weft.experts.balance/1"
    assert len(document["phy2log"]) == len(document["logcnt"]) == len(document["balance"]["per_layer"]) == 8
    assert document["balance"]["per_layer"][0] is None and document["balance"]["mean"] >= 0.9995
    assert document["moved_share"] is None and document["seconds"] > 0
    table = np.array(document["phy2log"])
    assert table.shape == (8, 288)
    for row, counts in zip(table, document["logcnt"], strict=True):
        assert np.bincount(row, minlength=256).tolist() == counts


@pytest.mark.parametrize(
    ("kind", "name"),
    [("weft", "plan.json"), ("sglang", "plan.json"), ("trtllm", "plan.yaml"), ("trtllm", "plan"), ("weft", "plan")],
)
def test_every_format_is_read_again(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str, name: str) -> None:
    """By content, whatever the file is called."""
    path = tmp_path / name
    path.write_text(run(capsys, "balance", STATS, *WIDE, "--format", kind))
    words = ("balance", str(trace_file(TRACES[1])), *WIDE, "--from-placement", str(path), "--json")
    document = json.loads(run(capsys, *words))
    assert 0 < document["moved_share"] <= 0.06
    assert document["balance"]["mean"] >= 0.95 > document["before"]["mean"]
    free = json.loads(run(capsys, *words, "--max-moved", "1"))
    assert free["moved_share"] > 0.06 and free["balance"]["mean"] >= 0.9995


def test_the_summary_names_the_policy(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "balance", STATS, *WIDE, "--nodes", "4", "--groups", "8")
    assert "policy hierarchical" in text and "--policy global may balance better" in text
    text = run(capsys, "balance", STATS, *WIDE, "--nodes", "4", "--groups", "8", "--policy", "global")
    assert "policy global" in text and "4 nodes and 8 groups do not limit the placement" in text
    assert "1 layers have no load" in text


def test_updates_per_iteration(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "balance", STATS, *WIDE, "--format", "trtllm", "--layer-updates-per-iter", "3")
    assert text.startswith("num_slots: 288\nlayer_updates_per_iter: 3\ninitial_global_assignments:\n  1: [")


@pytest.mark.parametrize(
    "words, code, message",
    [
        (("balance", STATS, "--slots", "200", "--ranks", "32"), 78, "slots 200: 256 experts need a slot each; legal"),
        (("balance", STATS, "--slots", "290", "--ranks", "32"), 78, "legal with 32 ranks: 256, 288, 320"),
        (("balance", STATS, *WIDE, "--nodes", "5"), 78, "nodes 5: does not divide 32 ranks; legal: 1, 2, 4, 8, 16, 32"),
        (
            ("balance", STATS, *WIDE, "--nodes", "4", "--groups", "2"),
            78,
            "groups 2: not divisible by 4 nodes; legal: 1",
        ),
        (("balance", STATS, *WIDE, "--nodes", "0"), 78, "--nodes: 0 is out of range; legal: at least 1"),
        (("balance", STATS, *WIDE, "--policy", "best"), 78, "policy best: legal: auto, greedy, global, hierarchical"),
        (("balance", STATS, *WIDE, "--policy", "hierarchical"), 78, "needs nodes and groups above 1"),
        (("balance", STATS, "--slots", "288"), 2, "--ranks is needed"),
        (("balance", STATS, *WIDE, "--max-moved", "0.1"), 2, "--max-moved needs --from-placement"),
        (("balance", STATS, *WIDE, "--format", "vllm"), 2, "--format vllm: legal: weft, trtllm, sglang"),
        (("balance", STATS, *WIDE, "--format", "sglang", "--json"), 2, "one of them"),
        (("balance", STATS, *WIDE, "--layer-updates-per-iter", "1"), 2, "needs --format trtllm"),
        (("balance", STATS, *WIDE, "--png", "x.png"), 2, "--png belongs to `weft experts show`"),
        (("show", STATS, "--slots", "288"), 2, "--slots belongs to `weft experts balance`"),
        (("show", STATS, "--loads", STATS), 2, "--loads needs a placement"),
        (("show", STATS, "--png", "x.jpg"), 2, "must end in .png"),
        (("move", STATS), 2, "unknown action 'move' (actions: balance, show)"),
        (("balance", "none.json", *WIDE), 78, "none.json: No such file"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, message: str) -> None:
    assert main(["experts", *words]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "rows, message",
    [
        ([[0, 0]], "every load is zero"),
        ([[1, -2]], "load -2.0 of layer 0, expert 1 is negative"),
        ([[1, float("nan")]], "load nan of layer 0, expert 1 is not a finite number"),
        ([[1, 2], [3]], "rows of different length"),
        ([1, 2], "shape [2]; wanted [layers][experts]"),
    ],
)
def test_bad_statistics(capsys: pytest.CaptureFixture[str], tmp_path: Path, rows: object, message: str) -> None:
    path = tmp_path / "stats.json"
    path.write_text(json.dumps({"logical_count": rows}))
    assert main(["experts", "balance", str(path), "--slots", "2", "--ranks", "2"]) == 78
    assert message in capsys.readouterr().err


def test_placements_of_another_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"physical_to_logical_map": [list(range(288))] * 8}))
    words = ("experts", "balance", STATS, *WIDE, "--from-placement", str(path))
    assert main(list(words)) == 78
    assert "has 288 experts, but 256 are wanted: it is of another model" in capsys.readouterr().err
    path = tmp_path / "plan.yaml"
    row = [*range(256), *range(32)]
    path.write_text(f"num_slots: 288\nlayer_updates_per_iter: 0\ninitial_global_assignments:\n  1: {row}\n  7: {row}\n")
    assert main([*words[:-1], str(path)]) == 78
    assert "no layer 2, but it has load" in capsys.readouterr().err


def test_show_draws_every_layer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = run(capsys, "show", STATS).splitlines()
    assert lines[0].startswith("load of experts: layers x 256 experts")
    assert [int(line.split()[0]) for line in lines[2:]] == list(range(1, 8))
    assert all("█" in line for line in lines[2:])
    path = tmp_path / "plan.json"
    path.write_text(run(capsys, "balance", STATS, *WIDE, "--json"))
    assert "replicas of experts" in run(capsys, "show", str(path))
    text = run(capsys, "show", str(path), "--loads", STATS)
    assert "balance 0.9999 mean" in text and "max 1.00" in text
    document = json.loads(run(capsys, "show", str(path), "--loads", STATS, "--json"))
    assert document["schema"] == "weft.experts.show/1"
    assert np.array(document["values"]).shape == (7, 32) and document["layers"] == list(range(1, 8))


def test_a_hot_expert_is_never_averaged_away() -> None:
    loads = np.ones((1, 100))
    loads[0, 57] = 50
    heat_map = load_map(loads)
    assert heat_map.binned(10).shape == (1, 10)
    assert heat_map.binned(10).max() == heat_map.values.max()


def test_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    png, svg = tmp_path / "map.png", tmp_path / "map.svg"
    assert run(capsys, "show", STATS, "--png", str(png), "--svg", str(svg)) == ""
    assert png.read_bytes().startswith(b"\x89PNG") and "<svg" in svg.read_text()
    assert main(["experts", "show", STATS, "--png", str(tmp_path / "none" / "map.png")]) == 78
    assert "No such file" in capsys.readouterr().err


def test_pictures_without_matplotlib(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(f"No module named {name!r}")
        return import_module(name)

    monkeypatch.setattr(pictures, "import_module", absent)
    assert main(["experts", "show", STATS, "--svg", str(tmp_path / "map.svg")]) == 78
    message = capsys.readouterr().err
    assert "pip install 'weft[pictures]'" in message and "drawn on the terminal" in message
    assert not (tmp_path / "map.svg").exists()
