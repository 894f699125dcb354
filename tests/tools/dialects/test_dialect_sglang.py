"""SGLang's commands: notes and their places; `cases/sglang` holds what is read."""

from __future__ import annotations

from weft.tools.dialects import registry

LLAMA = "python -m sglang.launch_server \\\n  --model-path meta-llama/Meta-Llama-3.1-70B-Instruct"
V3 = "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3"


def test_nodes_that_differ_in_an_option_are_told() -> None:
    text = "\n".join(
        f"{V3} --tp 16 --nnodes 2 --node-rank {rank} --dist-init-addr a:1 --chunked-prefill-size {size}"
        for rank, size in ((0, 4096), (1, 8192))
    )
    (reading,) = registry.read(text)
    (note,) = [note for note in reading.notes if note.code == "nodes-differ"]
    assert "max_num_batched_tokens is 4096 on node 0 but 8192 on node 1" in note.message


def test_the_nearest_known_flag_is_offered_with_its_place() -> None:
    (reading,) = registry.read(f"{LLAMA} --tp 4 \\\n  --enable-dp-attentoin")
    (note,) = [note for note in reading.notes if note.code == "unknown-flag"]
    assert "did you mean --enable-dp-attention?" in note.message
    assert note.where is not None and (note.where.line, note.where.column) == (3, 3)


def test_every_default_and_derivation_is_a_note() -> None:
    (reading,) = registry.read(f"{V3} --tp 8 --moe-a2a-backend deepep")
    messages = " ".join(note.message for note in reading.notes if note.level == "info")
    for part in ("--data-parallel-size is not given", "lm_head.tp 8: the whole tp group", "makes ep = tp"):
        assert part in messages
    assert reading.layout is not None and "lm_head.tp" in reading.layout.derived


def test_a_command_of_another_engine_is_named() -> None:
    (reading,) = registry.read("vllm serve X --tensor-parallel-size 2", "sglang")
    assert reading.refused is not None and "vLLM" in reading.refused.message and reading.refused.legal == ("vllm",)
