"""Processes that share the KV cache of a request by position answer as one rank does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.base.errors import ConfigError, LayoutError, RequestError
from weft.base.step.sampling_params import SamplingParams
from weft.frontend.llm import LLM
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.arch.block import BlockSpec, refuse_not_run
from weft.parallel.layout.resolve import resolve

PROMPTS = [f"Tell me about number {number}, please: " * (1 + 4 * (number % 2)) for number in range(4)]
GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


def texts(path: Path, **options: Any) -> list[str]:
    limits: dict[str, Any] = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "block_size": 4, "dtype": "float32"}
    with LLM(str(path), **limits, **options) as llm:
        return [result.outputs[0].text for result in llm.generate(PROMPTS, [GREEDY] * len(PROMPTS))]


def test_a_context_over_two_processes(model: Path) -> None:
    assert texts(model, layout={"attention.cp": 2}) == texts(model)


def test_programs_beside_steps_that_gather_keys(model: Path) -> None:
    """Of two groups one gathers the keys of a prompt, operation by operation, while the other runs its program."""
    sizes = {"dense.tp": 4, "o_proj.tp": 4, "lm_head.tp": 4, "embedding.tp": 4}
    assert texts(model, layout={"attention.cp": 2, "attention.dp": 2, **sizes}) == texts(model)


def test_a_cache_that_one_rank_has_no_room_for(model: Path) -> None:
    """Two ranks have each half of a context."""
    asked = {"max_model_len": 256, "kv_cache_memory": room_for(model, 256) * 3 // 4}
    with pytest.raises(ConfigError, match=r"needs .* KV cache .*; --kv-cache-memory .* holds"):
        texts(model, **asked)
    texts(model, layout={"attention.cp": 2}, **asked)


def room_for(model: Path, tokens: int) -> int:
    config = open_checkpoint(model).model_config()
    return tokens * Shards(config, resolve({})).kv_bytes_per_token(0, 4)


def test_a_device_is_refused(model: Path) -> None:
    with pytest.raises(LayoutError, match=r"attention\.cp 2: attention's kernels on CUDA devices give no partial"):
        texts(model, layout={"attention.cp": 2}, device="cuda")


@pytest.mark.parametrize("family", ["GptOss", "Bloom", "Mpt", "Falcon"])
def test_families_with_sinks_or_alibi_are_refused_by_name(model: Path, tmp_path: Path, family: str) -> None:
    """Before a rank starts: no attention here has either. A sink would join the softmax once, at the merge."""
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [f"{family}ForCausalLM"]}))
    with pytest.raises(ConfigError, match=f"architecture {family}ForCausalLM is not supported"):
        parse_config(json.loads((tmp_path / "config.json").read_text()))
    with pytest.raises(ConfigError, match="sinks True: only False is supported"):
        refuse_not_run(BlockSpec(sinks=True), latent=False)


def test_a_prompt_that_all_owners_together_have_no_room_for(model: Path) -> None:
    """Both numbers and what to change, at once; the others go on."""
    room = room_for(model, 64) // 2
    with LLM(str(model), layout={"attention.cp": 2}, dtype="float32", block_size=4, kv_cache_memory=room) as llm:
        most = llm.plan.engine.max_model_len
        assert most is not None and 32 < most < 64
        text = rf"prompt has 70 tokens.* is {most},.* of the 2 ranks that share a context holds {most} together: raise"
        with pytest.raises(RequestError, match=text):
            llm.generate([[5] * 70], [GREEDY])
        assert llm.generate([[5] * (most - 8)], [GREEDY])[0].outputs[0].token_ids
