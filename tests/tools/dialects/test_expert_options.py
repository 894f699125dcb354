"""Options of expert balancing that mean the same in weft are carried, the others become notes."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.tools.dialects import registry
from weft.tools.dialects.base import Context

V3 = "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp 16 --moe-a2a-backend deepep"
R1 = "vllm serve deepseek-ai/DeepSeek-R1 -dp 8 --enable-expert-parallel"


def options_of(text: str, dialect: str, files: dict[str, str] | None = None) -> tuple[dict[str, object], set[str]]:
    (reading,) = registry.read(text, dialect, Context(read_file=(files or {}).get))
    assert reading.refused is None
    return dict(reading.options), {note.code for note in reading.notes}


@pytest.mark.parametrize("program", ["sglang", "tokenspeed"])
def test_a_json_file_of_slots_is_a_placement(program: str) -> None:
    command = V3 if program == "sglang" else "tokenspeed serve deepseek-ai/DeepSeek-V3 --tp 4"
    found, codes = options_of(f"{command} --init-expert-location /data/slots.json", program)
    assert found["expert_placement"] == "/data/slots.json" and "init_expert_location" not in found
    assert "placement-file" in codes
    found, codes = options_of(f"{command} --init-expert-location /data/stats.pt", program)
    assert "expert_placement" not in found and "placement-file" in codes
    found, codes = options_of(f"{command} --init-expert-location trivial", program)
    assert "expert_placement" not in found and "placement-file" not in codes


def test_the_threshold_of_sglang() -> None:
    flag = "--eplb-min-rebalancing-utilization-threshold 0.8"
    found, codes = options_of(f"{V3} --enable-eplb {flag}", "sglang")
    assert found["eplb_threshold"] == 0.8 and "approximation" in codes
    assert "eplb_threshold" not in options_of(f"{V3} {flag}", "sglang")[0]  # nothing is balanced there


@pytest.mark.parametrize(
    ("words", "window"),
    [
        ("--enable-eplb", 1000),
        ("--enable-eplb --eplb-config.window_size 200", 200),
        ("--enable-eplb --eplb-window-size 300", 300),
        ("--enable-eplb --eplb-config.window_size 200 --eplb-config.step_interval 50", 50),
        ("--eplb-config.window_size 200", None),
    ],
)
def test_the_window_of_vllm(words: str, window: int | None) -> None:
    found, codes = options_of(f"{R1} {words}", "vllm")
    assert found.get("eplb_window") == window
    assert ("approximation" in codes) == (window == 50)


@pytest.mark.parametrize(
    ("config", "result"),
    [
        ('{"num_redundant_experts": "32"}', 288),
        ('{"num_redundant_experts": "$R"}', None),
        ('{"num_redundant_experts": -5}', "num_redundant_experts -5: a whole number of at least 0"),
        ('{"window_size": "long"}', "window_size long: a whole number of at least 1"),
        ('{"step_interval": 1.5}', "step_interval 1.5: a whole number of at least 1"),
        ('{"step_interval": 0}', "step_interval 0: a whole number of at least 1"),
    ],
)
def test_numbers_of_vllms_config_are_numbers(config: str, result: int | str | None) -> None:
    (reading,) = registry.read(f"{R1} --enable-eplb --eplb-config '{config}'", "vllm")
    if isinstance(result, str):
        assert reading.refused is not None and result in reading.refused.message
    else:
        assert reading.refused is None and reading.sizes is not None and reading.sizes.slots == result
        assert reading.variables == (() if result else ("R",))


@pytest.mark.parametrize(
    ("config", "result"),
    [
        ('{"eplb_config": {"num_redundant_experts": 32}}', 288),
        ('{"init_redundancy_expert": 16}', 272),
        ('{"eplb_config": {"num_redundant_experts": $R}}', None),
        ('{"eplb_config": {"num_redundant_experts": "many"}}', "num_redundant_experts 'many': a whole number of at"),
        ('{"eplb_config": {"num_redundant_experts": -5}}', "num_redundant_experts -5: a whole number of at least 0"),
        ('{"eplb_config": {"num_redundant_experts": "32"}}', "num_redundant_experts '32': a whole number of at least"),
        ('{"init_redundancy_expert": true}', "init_redundancy_expert True: a whole number of at least 0"),
        ('{"eplb_config": {"expert_heat_collection_interval": 1.5}}', "expert_heat_collection_interval 1.5: a whole"),
        ('{"num_iterations_eplb_update": null}', "num_iterations_eplb_update None: a whole number of at least 0"),
        ('{"eplb_config": {"dynamic_eplb": "sometimes"}}', "dynamic_eplb 'sometimes': true or false"),
        ('{"dynamic_eplb": 7}', "dynamic_eplb 7: true or false"),
    ],
)
def test_numbers_of_the_plug_ins_config_are_numbers(config: str, result: int | str | None) -> None:
    (reading,) = registry.read(f"{R1} --additional-config '{config}'", "vllm")
    if isinstance(result, str):
        assert reading.refused is not None and result in reading.refused.message and reading.refused.where is not None
    else:
        assert reading.refused is None and reading.sizes is not None and reading.sizes.slots == result
        assert reading.variables == (() if result else ("R",))


def test_variables_of_the_plug_ins_config_are_given_beside_the_text() -> None:
    text = f"""{R1} --additional-config '{{"eplb_config": {{"dynamic_eplb": $D, "num_redundant_experts": $R}}}}'"""
    (reading,) = registry.read(text, "vllm", Context(settings={"R": "32", "D": "true"}))
    assert reading.sizes is not None and (reading.sizes.slots, reading.sizes.policy) == (288, "global")
    (reading,) = registry.read(text, "vllm", Context(settings={"R": "few", "D": "true"}))
    assert reading.refused is not None and "num_redundant_experts 'few'" in reading.refused.message


def test_a_plug_ins_config_that_is_no_mapping_is_told() -> None:
    found, codes = options_of(f"""{R1} --additional-config '{{"eplb_config": 3}}'""", "vllm")
    assert "ignored" in codes


def test_the_file_of_tensorrt_llm() -> None:
    """A load balancer in a file of its own is a placement file; one that stands in the options is not."""
    engine = "tensor_parallel_size: 4\nmoe_expert_parallel_size: 4\nenable_attention_dp: true\nmodel: m\n"
    balancer = "num_slots: 8\nlayer_updates_per_iter: 2\ninitial_global_assignments:\n  0: [0, 1, 2, 3, 4, 5, 0, 1]\n"
    text = f"{engine}moe_config:\n  load_balancer: slots.yaml\n"
    context = Context(experts=6, read_file={"slots.yaml": balancer}.get)
    (reading,) = registry.read(text, "trtllm", context)
    assert reading.options["expert_placement"] == "slots.yaml"
    plain = Context(experts=6, read_file={"slots.yaml": balancer.partition("initial")[0]}.get)
    (reading,) = registry.read(text, "trtllm", plain)
    assert "expert_placement" not in reading.options


def test_assignments_among_tensorrt_llms_options_are_told() -> None:
    engine = "tensor_parallel_size: 4\nmoe_expert_parallel_size: 4\nenable_attention_dp: true\nmodel: m\n"
    balancer = "num_slots: 8, initial_global_assignments: {0: [0, 1, 2, 3, 4, 5, 0, 1]}"
    text = f"{engine}moe_config:\n  load_balancer: {{{balancer}}}\n"
    (reading,) = registry.read(text, "trtllm", Context(experts=6))
    (note,) = [note for note in reading.notes if note.code == "placement-file"]
    assert "--expert-placement FILE" in note.message and note.where is not None
    plain = text.replace(", initial_global_assignments: {0: [0, 1, 2, 3, 4, 5, 0, 1]}", "")
    assert plain != text and "placement-file" not in [n.code for n in registry.read(plain, "trtllm")[0].notes]


def test_written_options_are_read_back(tmp_path: Path) -> None:
    """vLLM's window and SGLang's placement survive a round trip."""
    for dialect, text in (
        ("vllm", f"{R1} --enable-eplb --eplb-config.window_size 200"),
        ("sglang", f"{V3} --enable-eplb --init-expert-location a.json"),
    ):
        (reading,) = registry.read(text, dialect, Context())
        assert reading.layout is not None
        written = registry.dialect(dialect).write(reading.layout, reading.options, dialect)
        (again,) = registry.read(written.text, dialect, Context())
        for name in ("eplb_window", "expert_placement"):
            assert again.options.get(name) == reading.options.get(name)
