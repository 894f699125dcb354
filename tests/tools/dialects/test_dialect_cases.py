"""Every case of `cases/`: what a text means, without the engine's name, and that it can be written again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.dialects import CASES, Case, all_cases, case_text, check, check_written, read_case
from weft.base.errors import UsageError
from weft.tools.dialects import registry
from weft.tools.dialects.names import names

ALL = all_cases()
WRITTEN = [case for case in ALL if case.group in ("documented", "meanings")]
UNSUPPORTED = yaml.safe_load((CASES / "unsupported.yaml").read_text())


def test_every_dialect_has_cases_and_no_file_is_left_out() -> None:
    files = {path.relative_to(CASES) for path in CASES.rglob("*") if path.is_file()}
    assert files == {Path("unsupported.yaml"), *(Path(case.dialect, f"{case.group}.yaml") for case in ALL)}
    assert {case.dialect for case in ALL} == set(names())


@pytest.mark.parametrize("case", ALL, ids=str)
def test_reads(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", [case for case in WRITTEN if case.dialect != "mindie"], ids=str)
def test_what_was_read_can_be_written(case: Case) -> None:
    """Except layers of each stage (SGLang) and servers of one role that are started as replicas (TensorRT-LLM)."""
    for reading in read_case(case):
        layout = reading.layout
        if layout is None or case.dialect == "sglang" and layout.pipeline.layers:
            continue
        if case.dialect != "trtllm" or layout.replicas == 1:
            assert check_written(layout, case.dialect, reading.experts or 0)


@pytest.mark.parametrize("case", [case for case in WRITTEN if case.dialect == "mindie"], ids=str)
def test_a_file_of_mindie_can_be_written(case: Case) -> None:
    """Its model decides sizes that no key names, so the model is written too."""
    for reading in read_case(case):
        if reading.layout is not None:
            options = {"num_experts": reading.experts or 0, "model": "DeepSeek-R1"}
            assert registry.write(reading.layout, "mindie", options).notes == ()


@pytest.mark.parametrize(("text", "reason"), [(case["text"], case["reason"]) for case in UNSUPPORTED])
def test_a_program_without_sizes_is_refused_with_what_to_give(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        registry.read(text)


def test_places_of_a_pair_are_inside_its_word() -> None:
    text = "lm_eval --model vllm --model_args pretrained=meta-llama/Llama-3.1-8B,tensor_parallel_size=0\n"
    (reading,) = registry.read(text)
    assert reading.refused is not None and reading.refused.where is not None
    assert text[reading.refused.where.column - 1 :].startswith("tensor_parallel_size=0")


def test_options_of_an_early_file_have_their_shared_names() -> None:
    (reading,) = registry.read(case_text("mindie", "texts", "the file of the first releases"))
    assert (reading.options["port"], reading.options["max_num_seqs"]) == (1040, 96)
    assert [note for note in reading.notes if note.level != "info"] == []


def test_a_projection_that_does_not_divide_the_stage_is_refused() -> None:
    text = case_text("tokenspeed", "services", "projections by the environment")
    (reading,) = registry.read(text.replace("_O_PROJ_TP_SIZE=4", "_O_PROJ_TP_SIZE=3"))
    assert reading.refused is not None and reading.refused.legal == (1, 2, 4, 8, 16)
    assert "O_PROJ_TP_SIZE 3" in reading.refused.message


def test_long_lists_of_names_are_read_fast() -> None:
    items = ", ".join(f'names["{at}"]' for at in range(400))
    with pytest.raises(UsageError):
        registry.read(f"values = [{items}, 1.5 ** 2]\n")


def test_tokenspeeds_documented_world_has_open_slots_only() -> None:
    (reading,) = registry.read(case_text("tokenspeed", "documented", "split"))
    document = reading.layout_document()
    assert document is not None and reading.sizes is not None
    assert document["world"] == 8 and reading.sizes.open == ("experts.slots",)
