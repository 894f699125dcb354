"""The first node's address goes with a layout from one engine's words to another's."""

from __future__ import annotations

import pytest

from weft.tools.dialects import registry

SGLANG = (
    "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --tp 16 --dp 16 --enable-dp-attention "
    "--moe-a2a-backend deepep --moe-dense-tp-size 1 --enable-dp-lm-head --nnodes 2 --node-rank 0 "
    "--dist-init-addr 10.0.0.1:5000"
)
VLLM = (
    "vllm serve deepseek-ai/DeepSeek-R1 -tp 8 -dp 2 --nnodes 2 --node-rank 0 --master-addr node-a "
    "--master-port 29500 --data-parallel-address node-a"
)


def written(text: str, target: str) -> tuple[str, list[str]]:
    (reading,) = registry.read(text)
    assert reading.layout is not None
    found = registry.write(reading.layout, target, reading.options, reading.dialect)
    return found.text, [note.message for note in found.notes]


def test_host_and_port_apart() -> None:
    text, notes = written(SGLANG, "vllm")
    for words in ("--master-addr 10.0.0.1 ", "--master-port 5000 ", "--data-parallel-address 10.0.0.1\n"):
        assert words in text + "\n"
    assert not [note for note in notes if "dist_init_addr" in note]


@pytest.mark.parametrize("target", ["sglang", "tokenspeed"])
def test_host_and_port_together(target: str) -> None:
    text, notes = written(VLLM, target)
    assert "--dist-init-addr node-a:29500" in text
    assert not [note for note in notes if "master" in note or "address" in note]


def test_a_port_that_nobody_named_is_a_note() -> None:
    text, notes = written(VLLM.replace("--master-port 29500 ", ""), "sglang")
    assert "--dist-init-addr node-a:5000" in text and any("the port is chosen here" in note for note in notes)


@pytest.mark.parametrize(("text", "target"), [(SGLANG, "sglang"), (VLLM, "vllm")])
def test_an_engine_s_own_words_stay(text: str, target: str) -> None:
    again, _ = written(text, target)
    (before,), (after,) = registry.read(text), registry.read(again)
    assert (before.layout, before.options) == (after.layout, after.options)


def test_sizes_that_an_engine_would_refuse_are_left_out() -> None:
    """lm_head over 16 ranks cannot be said where dp is 4; the command starts and a note says so."""
    text = "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --tp 16 --dp 4 --enable-dp-attention"
    for target in ("vllm", "trtllm"):
        _, notes = written(text, target)
        assert not [note for note in notes if "would not start" in note], target
        assert any("lm_head.tp 16 cannot be said" in note for note in notes)
