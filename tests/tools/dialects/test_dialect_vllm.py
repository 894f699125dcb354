"""vLLM's commands: open sizes and what is written; `cases/vllm` holds what is read."""

from __future__ import annotations

from tests.support.dialects import case_text
from weft.tools.dialects import registry
from weft.tools.dialects.base import Context

LLAMA = "vllm serve meta-llama/Llama-3.1-70B-Instruct"


def test_the_format_alone_takes_its_dp_from_the_user() -> None:
    (reading,) = registry.read(
        case_text("vllm", "documented", "the format alone"), None, Context(settings={"data-parallel-size": "16"})
    )
    assert reading.layout is not None and reading.layout.world == 16 and reading.layout.o_proj.tp == 8


def test_options_are_written_under_the_engine_s_names() -> None:
    (reading,) = registry.read(
        "sglang serve --model X --tp 2 --context-length 4096 --max-running-requests 8 --disable-radix-cache"
    )
    assert reading.layout is not None
    written = registry.write(reading.layout, "vllm", reading.options)
    assert written.notes == ()
    (back,) = registry.read(written.text)
    names = ("model", "max_model_len", "max_num_seqs", "enable_prefix_caching")
    assert [back.options[name] for name in names] == ["X", 4096, 8, False]


def test_listed_cpus_are_written_as_they_were_read() -> None:
    text = f"VLLM_CPU_OMP_THREADS_BIND='0-7|8-15' {LLAMA} -tp 2"
    (reading,) = registry.read(text)
    assert reading.layout is not None
    written = registry.write(reading.layout, "vllm", reading.options, "vllm")
    assert written.notes == () and written.text.startswith("VLLM_CPU_OMP_THREADS_BIND='0-7|8-15' vllm serve")
    (note,) = registry.write(reading.layout, "sglang", reading.options).notes
    assert note.code == "cannot-say" and "cpus 0-7|8-15" in note.message
    (reading,) = registry.read(f"VLLM_CPU_OMP_THREADS_BIND=$CPUS {LLAMA} -tp 2")
    assert "VLLM_CPU_OMP_THREADS_BIND depends on CPUS" in [note.message for note in reading.notes]


def test_an_option_without_a_name_is_a_note() -> None:
    (reading,) = registry.read("sglang serve --model X --tp 2 --schedule-policy lpm")
    assert reading.layout is not None
    (note,) = registry.write(reading.layout, "vllm", reading.options).notes
    assert note.code == "cannot-say" and "schedule_policy" in note.message


def test_what_vllm_cannot_say_is_a_note() -> None:
    text = "tokenspeed serve Qwen/Qwen3-30B-A3B --world-size 8 --attn-tp-size 2 --moe-tp-size 4 --dist-init-addr a:1"
    (reading,) = registry.read(text)
    assert reading.layout is not None
    notes = registry.write(reading.layout, "vllm", {"model": "Qwen/Qwen3-30B-A3B"}).notes
    assert any(note.code == "cannot-say" and note.message.startswith("experts.tp 4") for note in notes)
