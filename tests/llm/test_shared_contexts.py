"""Processes that share the KV cache of a request by position answer as one rank does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.arch import Shards
from weft.checkpoint import open_checkpoint
from weft.errors import ConfigError, LayoutError
from weft.layout.resolve import resolve
from weft.llm import LLM
from weft.step.sampling_params import SamplingParams

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
