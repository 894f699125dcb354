"""From the command line to a Layout: every size flag, aliases, the layout file, and contradictions between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.base.errors import LayoutError
from weft.cli.args.model import add_model_arguments, layout_from
from weft.cli.args.parser import CommandParser
from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout import Layout, resolve

CONFIG = ModelConfig(
    family="llama",
    hidden_size=64,
    intermediate_size=96,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    vocab_size=100,
    max_position=64,
)


def layout(words: str, *, runnable: bool = True) -> Layout:
    parser = CommandParser(prog="weft test")
    add_model_arguments(parser)
    return layout_from(parser.parse_command(words.split()), CONFIG, runnable=runnable)


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ("--tp 2", "--tensor-parallel-size 2"),
        ("--attn-tp-size 2 --attn-dp-size 2", "--tp-size 2 --attn-dp-size 2"),
        ("--attn-tp-size 4 --lm-head-local-tp 2", "--attn-tp-size 4 --lm-head-tp-size 2 --lm-head-within node"),
        ("--attn-tp-size 4 --o-proj-local-tp 2", "--attn-tp-size 4 --o-proj-tp-size 2 --o-proj-within node"),
        ("--attn-tp-size 2 --world-size 4", "--attn-tp-size 2 --attn-dp-size 2"),
    ],
)
def test_aliases(words: str, same: str) -> None:
    assert layout(words) == layout(same)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("--attn-tp-size 2", {"attention.tp": 2}),
        ("--attn-dp-size 2", {"attention.dp": 2}),
        ("--attn-cp-size 2", {"attention.cp": 2}),
        ("--attn-tp-size 8 --kv-split-size 2", {"attention.tp": 8, "attention.kv_split": 2}),
        ("--attn-split balanced", {"attention.split": "balanced"}),
        ("--attn-dp-size 2 --dense-tp-size 2", {"attention.dp": 2, "dense.tp": 2}),
        ("--attn-dp-size 2 --o-proj-tp-size 2", {"attention.dp": 2, "o_proj.tp": 2}),
        ("--attn-dp-size 2 --embedding-tp-size 2", {"attention.dp": 2, "embedding.tp": 2}),
        ("--attn-dp-size 2 --lm-head-tp-size 2", {"attention.dp": 2, "lm_head.tp": 2}),
        ("--pipeline-parallel-size 2", {"pipeline.stages": 2}),
        ("--pp 2", {"pipeline.stages": 2}),
        ("--pp-size 2", {"pipeline.stages": 2}),
        ("--pipeline-layers 5,3", {"pipeline.layers": (5, 3)}),
        ("--replicas 2 --nodes 2", {"replicas": 2, "nodes": 2}),
    ],
)
def test_every_size_flag(words: str, values: dict[str, object]) -> None:
    assert layout(words, runnable=False) == resolve(values)


@pytest.mark.parametrize(
    "words",
    [
        "--moe-tp-size 2",
        "--moe-ep-size 2",
        "--expert-parallel-size 2",
        "--expert-slots 8",
        "--moe-dispatch auto",
        "--expert-balance none",
        "--expert-balance-interval 10",
        "--shared-experts-tp-size 1",
    ],
)
def test_expert_flags_are_refused_for_a_dense_model_not_ignored(words: str) -> None:
    with pytest.raises(LayoutError, match="the model has no experts"):
        layout(words)


def test_tensor_parallel_size_with_attn_tp_size_is_refused_in_one_line() -> None:
    with pytest.raises(LayoutError) as caught:
        layout("--tensor-parallel-size 2 --attn-tp-size 2")
    text = str(caught.value)
    assert "--tensor-parallel-size" in text and "--attn-tp-size" in text and "\n" not in text


def test_file_and_flags_complete_each_other(tmp_path: Path) -> None:
    file = tmp_path / "layout.yaml"
    file.write_text("attention: {tp: 2}\ndense: {tp: 4}\nlm_head: {tp: null}\n")
    flags = f"--layout {file} --world-size 4 --lm-head-tp-size 1 --dense-tp-size 4"
    assert layout(flags) == resolve({"attention.tp": 2, "dense.tp": 4, "lm_head.tp": 1}, 4)


def test_file_and_flag_that_differ_are_refused_naming_both(tmp_path: Path) -> None:
    file = tmp_path / "layout.yaml"
    file.write_text("dense: {tp: 4}\nattention: {dp: 4}\nworld: 4\n")
    with pytest.raises(LayoutError) as caught:
        layout(f"--layout {file} --dense-tp-size 2")
    assert str(caught.value) == f"dense.tp is 4 in {file}, but --dense-tp-size gives 2; leave one out"
    with pytest.raises(LayoutError, match="world 4 in the layout, but --world-size is 8"):
        layout(f"--layout {file} --world-size 8")
    with pytest.raises(LayoutError, match=r"layout\.yaml, line 1: unknown key denze; did you mean dense\?"):
        file.write_text("denze: {tp: 4}")
        layout(f"--layout {file}")


def test_a_context_is_shared() -> None:
    words = "--attn-cp-size 2"
    assert layout(words, runnable=False).attention.cp == layout(words).attention.cp == 2


def test_the_model_is_checked_too() -> None:
    with pytest.raises(LayoutError, match="attention tp 16: num_attention_heads is 8"):
        layout("--tp 16")
