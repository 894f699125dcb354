"""Files of transformers 5 and 4 and of llama.cpp's converter against transformers' answers, in fp32, within 1e-4.

`data/transformers_4.json`: configs, and what else `save_pretrained` of transformers 4.57 wrote, in an environment of
its own. `data/*.gguf`: by llama.cpp's converter (`data/convert.py`), with what transformers answers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.model.checkpoint.gguf_files import rewritten
from tests.model.models.test_families import (
    LATENT,
    LLAMA3,
    MSCALE,
    SIZES,
    YARN,
    ours,
    prompts_for,
    randomize_biases,
    theirs,
)
from weft.model.checkpoint import open_checkpoint
from weft.model.weights.check import check_checkpoint
from weft.parallel.arch import param_specs

DATA = Path(__file__).parent / "data"
FOUR = json.loads((DATA / "transformers_4.json").read_text())
GGUF = json.loads((DATA / "answers.json").read_text())
LENGTHS = (1, 9, 23)
"""Of the prompts that are answered: prefixes of GGUF's one prompt."""
ROPES: dict[str, Any] = {
    "default": None,
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    "llama3": LLAMA3,
    "yarn": YARN,
}
FAMILIES: dict[str, list[dict[str, Any]]] = {
    "llama": [{}, {"attention_bias": True}, {"mlp_bias": True}],
    "mistral": [{"sliding_window": None}, {"sliding_window": 9}],
    "qwen2": [{}, {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}],
    "qwen3": [{"head_dim": 16}, {"head_dim": 16, "attention_bias": True}],
    "mixtral": [
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": window, "head_dim": 8}
        for window in (None, 9)
    ],
    "qwen3_moe": [
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, **more}
        for more in ({}, {"use_sliding_window": True, "sliding_window": 7}, {"mlp_only_layers": [1]})
    ],
    "deepseek_v2": [{**LATENT, "q_lora_rank": rank, "topk_method": "greedy"} for rank in (None, 16)],
    "deepseek_v3": [{**LATENT, "q_lora_rank": 16, "n_group": 4, "topk_group": 2}],
}
FORMS: tuple[dict[str, Any], ...] = ({}, {"max_shard_size": "60KB"}, {"save_original_format": False})
"""Options of `save_pretrained`."""
CASES = [
    (family, variant, rope, tied)
    for family, variants in FAMILIES.items()
    for variant, rope, tied in itertools.product(range(len(variants)), ROPES, (False, True))
]
SMALL = (("qwen3_moe", 1, "default", True), ("mixtral", 1, "linear", False), ("llama", 1, "yarn", True))
"""Part of the suite: what no other test has together."""


def model_of(family: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **{**SIZES, **changes})
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomize_biases(made, 11)
    made.eval()
    return made


def check(model: PreTrainedModel, path: Path) -> None:
    """weft's answers from `path` are the model's."""
    prompts = prompts_for(3)[:2]
    with torch.inference_mode():
        wanted = [theirs(model, prompt) for prompt in prompts]
    for want, got in zip(wanted, ours(path, prompts, 1), strict=True):
        torch.testing.assert_close(torch.stack(got.logits), torch.stack(want.logits), atol=1e-4, rtol=1e-4)
        assert got.tokens == want.tokens


def case(path: Path, family: str, variant: int, rope: str, tied: bool) -> None:
    words = {"tie_word_embeddings": tied, **FAMILIES[family][variant]}
    scaled = MSCALE if family == "deepseek_v3" and rope == "yarn" else ROPES[rope]
    model = model_of(family, **words, **({} if scaled is None else {"rope_parameters": dict(scaled)}))
    for number, options in enumerate(FORMS):
        place = path / str(number)
        model.save_pretrained(place, **options)
        if number == 0:
            check(model, place)
        else:  # the same tensors by other names or in other files
            opened = open_checkpoint(place)
            check_checkpoint(opened, param_specs(opened.model_config()))
            assert contents(place) == contents(path / "0")


def contents(place: Path) -> dict[str, str]:
    """A digest of every tensor's bytes, by weft's name for it."""
    files: dict[str, bytes] = {}
    found = {}
    for name, info in open_checkpoint(place).tensors.items():
        data = files.setdefault(info.file, Path(info.file).read_bytes())
        found[name] = hashlib.sha256(data[info.offset : info.end]).hexdigest()
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "variant", "rope", "tied"), SMALL)
def test_what_transformers_5_writes(tmp_path: Path, family: str, variant: int, rope: str, tied: bool) -> None:
    case(tmp_path, family, variant, rope, tied)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "variant", "rope", "tied"), CASES)
def test_all_that_transformers_5_writes(tmp_path: Path, family: str, variant: int, rope: str, tied: bool) -> None:
    case(tmp_path, family, variant, rope, tied)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FOUR["cases"])
def test_what_transformers_4_writes(tmp_path: Path, name: str) -> None:
    written = FOUR["cases"][name]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(written["config"]))
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path), dtype=torch.float32).eval()
    randomize_biases(model, 11)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    file.write_text(json.dumps(written["config"]))
    index = tmp_path / "model.safetensors.index.json"
    names = sorted(json.loads(index.read_text())["weight_map"])
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == written["names_sha256"]
    index.write_text(json.dumps({**json.loads(index.read_text()), "metadata": written["metadata"]}))
    check(model, tmp_path)


@pytest.mark.parametrize("name", GGUF["cases"])
def test_what_llama_cpps_converter_writes(name: str) -> None:
    file, known, prompt = DATA / f"{name}.gguf", GGUF["cases"][name], GGUF["prompt"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == known["sha256"]
    found = ours(file, [tuple(prompt[:length]) for length in LENGTHS] + [tuple(prompt)], 1)
    for length, answer in zip(LENGTHS, found, strict=False):
        mine = torch.log_softmax(answer.logits[0].double(), -1)[prompt[length]].item()
        assert mine == pytest.approx(known["logprobs"][length - 1], abs=1e-4), length
    assert found[-1].tokens[0] == known["next"]


@pytest.mark.parametrize("file", sorted(DATA.glob("*.*.gguf")), ids=lambda file: file.stem)
def test_what_llama_cpps_quantizer_writes(tmp_path: Path, file: Path) -> None:
    """Answers are those of the numbers that the package unpacks."""
    prompts = [tuple(GGUF["prompt"][:length]) for length in LENGTHS]
    wanted = ours(rewritten(file, tmp_path / "plain.gguf"), prompts, 1)
    for world in (1, 2):
        for mine, plain in zip(ours(file, prompts, world), wanted, strict=True):
            assert mine.tokens == plain.tokens
            torch.testing.assert_close(mine.logits, plain.logits, atol=1e-4, rtol=1e-4)
