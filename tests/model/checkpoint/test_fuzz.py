"""Thousands of broken models: each is served, or refused in a few lines without control characters, and quickly."""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.model.checkpoint.mutations import of_bytes, of_json, of_template
from tests.support.checkpoints import make_checkpoint, make_gguf, make_tokenizer, small_config, trained_tokenizer
from weft.base.errors import CheckpointError, ConfigError, RequestError, WeftError
from weft.base.printable import printable
from weft.base.settings import EngineConfig
from weft.base.step.defaults import recommended
from weft.compute.native import libraries
from weft.engine.text import Tokenizer
from weft.frontend.chat.template_probe import probe
from weft.frontend.text_worker.jobs import Begin, TriedTemplates, pack
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.plan import plan_launch

SIZES: Any = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 300,
}  # fmt: skip
TEMPLATE = "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
SLOWEST_S, MOST_BYTES, MOST_LINES = 5.0, 200 << 20, 12
"""Seconds are of processor time: the machine may be busy."""
ENGINE = EngineConfig(kv_cache_memory=8 << 20, max_num_seqs=2)
TYPES = ("Q2_K", "Q5_K", "IQ4_XS", "IQ1_M", "MXFP4", "TQ1_0")
DATA = Path(__file__).parents[1] / "models" / "data"
Change = Callable[[random.Random, Path], None]


@pytest.fixture(scope="module", autouse=True)
def sources_are_hashed_once() -> Iterator[None]:
    """Whether the C++ parts fit their sources is asked at every start, and takes longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libraries, "_source_hash", cache(libraries._source_hash))
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind: a plain directory, one in shards with experts, and a GGUF."""
    root = tmp_path_factory.mktemp("fuzz")
    plain, experts = root / "plain", root / "experts"
    make_checkpoint(plain, small_config("qwen3", **SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e4}))
    make_tokenizer(plain, vocab_size=280)
    (plain / "chat_template.jinja").write_text(TEMPLATE)
    (plain / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5], "temperature": 0.6, "top_k": 9}))
    (plain / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<|start|>"}}))
    mixtral: Any = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 3}
    make_checkpoint(experts, small_config(**{**SIZES, **mixtral}), shards=3)
    make_tokenizer(experts, vocab_size=280, chat_template=TEMPLATE)
    keys = {"tokenizer.chat_template": TEMPLATE, "tokenizer.ggml.add_bos_token": True}
    make_gguf(root / "m.gguf", small_config(**SIZES), tokenizer=trained_tokenizer(280), metadata=keys)
    wide = {**SIZES, "hidden_size": 256, "intermediate_size": 256, "head_dim": 128}
    for kind in TYPES:
        own = {**keys, "general.name": kind}
        make_gguf(
            root / f"{kind}.gguf", small_config(**wide), qtype=kind, tokenizer=trained_tokenizer(280), metadata=own
        )
    stacked = {name: DATA / f"{name}.gguf" for name in ("qwen3moe", "deepseek-v3")}
    return {"plain": plain, "experts": experts, "gguf": root / "m.gguf", **stacked} | {
        kind: root / f"{kind}.gguf" for kind in TYPES
    }


def changes(name: str) -> Change:
    """What a file of that name is changed by."""

    def change(draw: random.Random, file: Path) -> None:
        if name.endswith(".json"):
            file.write_text(of_json(draw, file.read_text()), errors="surrogatepass")
        elif name.endswith(".jinja"):
            file.write_text(of_template(draw, file.read_text()), errors="surrogatepass")
        else:
            data = file.read_bytes()
            head = 8 + int.from_bytes(data[:8], "little") if name.endswith(".safetensors") else 9000
            file.write_bytes(of_bytes(draw, data, head))

    return change


def start(place: Path) -> None:
    """What a start does with a model's files before ranks are there."""
    checkpoint = open_checkpoint(place)
    config = checkpoint.model_config()
    layout = resolve({}, 1, num_experts=config.num_experts)
    plan = plan_launch(checkpoint, layout, ENGINE, "shared_memory")
    tokenizer = Tokenizer.from_checkpoint(checkpoint)
    try:
        tokenizer.chat_templates.decide()
    except RequestError as error:  # as the text worker's answer becomes one
        raise CheckpointError(f"{checkpoint.path}: {printable(str(error))}") from error
    plan.with_vocabulary(tokenizer.eos_token_ids, None)
    recommended(checkpoint.generation_config, checkpoint.generation_path)
    for line in (*checkpoint.notes, *tokenizer.notes, *tokenizer.chat_templates.left_out.values()):
        assert printable(line).isprintable()
    if tokenizer.has_chat_template:
        pack(TriedTemplates(knows=probe(tokenizer.chat_templates, tokenizer.added_tokens)))
    assert Checkpoint.from_table(checkpoint.table()).fingerprint() == checkpoint.fingerprint()  # as ranks get it
    pack(Begin.of(checkpoint, config.vocab_size, plan.eos_token_ids))


def outcome(place: Path) -> str:
    """ "served" or the refusal, which must be short, clean and of the right kind."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        start(place)
        said = "served"
    except WeftError as error:
        said = str(error)
        assert error.exit_code in (65, 78), said
        assert error.exit_code == 65 or isinstance(error, ConfigError), said
    assert time.process_time() - began < SLOWEST_S, said
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES, said
    assert len(said.splitlines()) <= MOST_LINES and len(said) < MOST_LINES * 1100, said[:500]
    assert all(line.isprintable() for line in said.splitlines()), said
    return said


def runs(models: dict[str, Path], place: Path, seed: int, count: int) -> Iterator[tuple[str, str]]:
    draw, own = random.Random(seed), {name: place / source.name for name, source in models.items()}
    for name, source in models.items():
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, own[name])
    for _ in range(count):
        name = draw.choice(("plain", "plain", "experts", "gguf", "gguf", "qwen3moe", "deepseek-v3", draw.choice(TYPES)))
        file = draw.choice(sorted(own[name].iterdir())) if own[name].is_dir() else own[name]
        whole = file.read_bytes()
        changes(file.name)(draw, file)
        yield f"{name}/{file.name}", outcome(own[name])
        file.write_bytes(whole)


def check(models: dict[str, Path], place: Path, seed: int, count: int) -> None:
    found: dict[str, list[str]] = {}
    for file, said in runs(models, place, seed, count):
        found.setdefault(file, []).append(said)
    shares = {file: sum(each == "served" for each in said) / len(said) for file, said in found.items()}
    assert all(0 < sum(each != "served" for each in said) for said in found.values()), shares
    assert 0.1 < sum(shares.values()) / len(shares) < 0.9, shares


def test_the_models_are_served_unchanged(models: dict[str, Path]) -> None:
    assert [outcome(place) for place in models.values()] == ["served"] * len(models)


@pytest.mark.parametrize("seed", range(4))
def test_broken_models(models: dict[str, Path], tmp_path: Path, seed: int) -> None:
    check(models, tmp_path, seed, 500)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_many_more_broken_models(models: dict[str, Path], tmp_path: Path, seed: int) -> None:
    check(models, tmp_path, seed, 1000)


def test_the_same_seed_breaks_the_same(models: dict[str, Path], tmp_path: Path) -> None:
    def seen(place: str) -> list[Any]:
        found = runs(models, tmp_path / place, 5, 12)
        return [(file, said.replace(str(tmp_path / place), "")) for file, said in found]

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert seen("a") == seen("b")
