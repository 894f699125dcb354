"""The SVG is well-formed, shows every module and boundary, and folds ranks that look alike."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from weft.cli.args.model_config import KNOWN
from weft.cli.main import main
from weft.parallel.arch import parse_config
from weft.parallel.layout.resolve import resolve
from weft.tools.explain import explain, to_svg
from weft.tools.explain.svg import COLOURS, fold

SVG = "{http://www.w3.org/2000/svg}"


def drawn(name: str, given: dict[str, object], world: int) -> tuple[ElementTree.Element, list[str], int]:
    config = parse_config(json.loads((KNOWN / f"{name}.json").read_text()))
    report = explain(name, config, resolve(given, world, num_experts=config.num_experts), dtype="bfloat16", batch=8)
    tree = ElementTree.fromstring(to_svg(report))
    return tree, [text.text or "" for text in tree.iter(f"{SVG}text")], len(fold(report))


def test_eight_ranks_are_eight_columns() -> None:
    tree, texts, columns = drawn("Llama-3.1-8B", {"attention.tp": 2, "o_proj.tp": 8}, 8)
    assert columns == 8 and [f"rank {rank}" in texts for rank in range(8)] == [True] * 8
    assert {"embedding.in", "o_proj.in", "sampling.out", "dense", "30 times a step"} - set(texts) == {"30 times a step"}
    assert any(text.startswith("all_to_all over 4 ranks {0 2 4 6}") for text in texts)
    still = sum(text.endswith("nothing moves") for text in texts)
    arrows = len(list(tree.iter(f"{SVG}path"))) - 1  # the marker's
    assert still > 1 and arrows == sum(text.endswith((".in", ".out")) for text in texts) - still
    assert {"FULL(n)", "SHARD(n)", "PARTIAL(n)"} <= set(texts)


def test_alike_ranks_are_folded() -> None:
    _, texts, columns = drawn("DeepSeek-V3", {"attention.tp": 2, "attention.dp": 32, "o_proj.tp": 8}, 64)
    assert columns == 1 and "ranks 0-63" in texts and "8 blocks of 8" in texts


def test_many_different_ranks_stay_readable() -> None:
    _, texts, columns = drawn("Llama-3.1-8B", {"attention.tp": 3, "embedding.tp": 5, "attention.dp": 25}, 75)
    assert columns <= 16 and any(text.endswith("-74") for text in texts)


def test_everything_lies_inside_the_picture() -> None:
    tree, _, _ = drawn("Mixtral-8x7B", {"attention.tp": 4, "experts.ep": 8}, 16)
    width, height = float(tree.get("width", "0")), float(tree.get("height", "0"))
    for box in tree.iter(f"{SVG}rect"):
        assert 0 <= float(box.get("x", "0")) and float(box.get("x", "0")) + float(box.get("width", "0")) <= width
        assert 0 <= float(box.get("y", "0")) and float(box.get("y", "0")) + float(box.get("height", "0")) <= height


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "--without-checkpoint", "Qwen3-30B-A3B", "--tp", "4", "--svg"]
    assert main([*words, str(tmp_path / "a.svg")]) == 0
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    assert main([*words, str(tmp_path / "no" / "a.svg")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_stage_without_a_module_has_no_bar_of_it() -> None:
    tree, _, columns = drawn("DeepSeek-V3", {"attention.tp": 2, "attention.dp": 2, "pipeline.stages": 2}, 8)
    bars = {
        module: sum(bar.get("fill") == COLOURS[module] and bar.get("rx") == "4" for bar in tree.iter(f"{SVG}rect"))
        for module in ("embedding", "attention", "dense", "lm_head")
    }
    assert columns == 8
    assert bars == {"embedding": 2, "attention": 4, "dense": 2, "lm_head": 2}
