"""TensorRT-LLM: places, roles, files beside the text and what is written; `cases/trtllm` holds what is read."""

from __future__ import annotations

import pytest

from tests.support.dialects import case_text
from weft.parallel.layout import resolve
from weft.tools.dialects import registry
from weft.tools.dialects.base import Context

R1 = "deepseek-ai/DeepSeek-R1"
LLAMA = "meta-llama/Llama-3.1-70B-Instruct"


def test_variants_have_their_comments_names() -> None:
    assert [reading.name for reading in registry.read(case_text("trtllm", "documented", "attention"))] == [
        "TP-8",
        "DP-8",
    ]


def test_roles_have_their_names() -> None:
    for name in ("two roles", "two roles of a job"):
        readings = registry.read(case_text("trtllm", "meanings", name))
        assert [(reading.name, reading.role) for reading in readings] == [
            ("prefill", "prefill"),
            ("decode", "decode"),
        ]


def test_places_are_those_of_the_input() -> None:
    (reading,) = registry.read(
        f"cat > c.yaml <<EOF\ntensor_parallel_size: many\nEOF\ntrtllm-serve {LLAMA} --config c.yaml"
    )
    assert reading.refused is not None and reading.refused.where is not None
    assert (reading.refused.where.line, reading.refused.where.column) == (2, 23)


def test_places_in_the_second_part_of_a_file() -> None:
    text = "cat > c.yaml <<EOF\na: 1\nEOF\ncat >> c.yaml <<EOF\ntensor_parallel_size: many\nEOF\n"
    (reading,) = registry.read(f"{text}trtllm-serve {LLAMA} --config c.yaml")
    assert reading.refused is not None and reading.refused.where is not None
    assert (reading.refused.where.line, reading.refused.where.column) == (5, 23)


def test_a_file_beside_the_text_is_read() -> None:
    files = {"c.yaml": "tensor_parallel_size: 4\nenable_attention_dp: true\n"}
    (reading,) = registry.read(f"trtllm-serve {LLAMA} --config c.yaml", None, Context(read_file=files.get))
    assert reading.sizes is not None and (reading.sizes.tp, reading.sizes.dp) == (1, 4)


def test_a_whole_balancer_is_kept() -> None:
    text = "num_slots: 4\nlayer_updates_per_iter: 0\ninitial_global_assignments:\n  3: [0, 1, 2, 0]\n"
    (reading,) = registry.read(text, "trtllm", Context(experts=3))
    assert reading.options["moe_config.load_balancer.initial_global_assignments"] == {"3": [0, 1, 2, 0]}
    elided, *_ = registry.read(
        case_text("trtllm", "meanings", "a balancer alone, static"), "trtllm", Context(experts=256)
    )
    assert "moe_config.load_balancer.initial_global_assignments" not in elided.options


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"attention.tp": 2, "attention.dp": 4}, "attention.tp 2 cannot be said; the engine will have 1"),
        ({"attention.tp": 8, "lm_head.tp": 4}, "lm_head.tp 4 cannot be said; the engine will have 8"),
        ({"attention.tp": 8, "attention.kv_split": 2}, "attention.kv_split 2 cannot be said; the engine will have 1"),
        ({"attention.tp": 2, "replicas": 2}, "replicas 2 cannot be said; the engine will have 1"),
    ],
)
def test_what_cannot_be_said_is_a_note(given: dict[str, object], text: str) -> None:
    written = registry.write(resolve(given), "trtllm", {})
    assert text in [note.message for note in written.notes]


def test_options_go_under_the_engines_keys() -> None:
    options = {"model": R1, "max_num_seqs": 32, "kv_cache_dtype": "fp8", "port": 9000, "strange": 3}
    written = registry.write(resolve({"attention.tp": 8}), "trtllm", options)
    assert "max_batch_size: 32\n" in written.text and "kv_cache_config:\n  dtype: fp8\n" in written.text
    assert f"trtllm-serve {R1} --config parallel_config.yaml --port 9000" in written.text
    assert [note.message for note in written.notes] == ["option strange 3 has no key in this engine's file"]
