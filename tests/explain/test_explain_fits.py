"""Does a layout fit into a rank's memory: the sums, the KV tokens that remain, and changes that really make room."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from weft.arch import ModelConfig, Shards, parse_config
from weft.cli.main import main
from weft.cli.model_config import KNOWN
from weft.explain.fits import Budget, Load, budget, fit, lines
from weft.layout.resolve import resolve

GIB = 2**30
LOAD = Load(rows=2048, sampled=64, itemsize=2)


def config_of(name: str) -> ModelConfig:
    return parse_config(json.loads((KNOWN / f"{name}.json").read_text()))


def test_what_remains_is_what_is_not_used() -> None:
    config, layout = config_of("Llama-3.1-70B"), resolve({}, tp=8)
    found = fit(config, layout, LOAD, Budget(80 * GIB)).tightest
    weights = max(sum(Shards(config, layout).bytes(rank, 2).values()) for rank in range(8))
    assert found.weights == weights and found.left == 80 * GIB - weights - found.activations - found.exchange
    assert found.kv_tokens == found.left // (2 * 128 * 80 * 2)
    assert 0 < found.activations < 4 * GIB and 0 < found.exchange < GIB


def test_more_memory_never_holds_fewer_tokens() -> None:
    config, layout = config_of("Qwen3-30B-A3B"), resolve({"attention.tp": 2}, 8, num_experts=128)
    tokens = [fit(config, layout, LOAD, Budget(size * GIB)).tightest.kv_tokens for size in (4, 16, 24, 80)]
    assert tokens == sorted(tokens) and tokens[0] == 0 < tokens[-1]


def test_the_change_that_is_called_enough_is_enough() -> None:
    config, layout = config_of("DeepSeek-V3"), resolve({"attention.dp": 32}, num_experts=256)
    memory = Budget(34 * GIB)
    found = fit(config, layout, LOAD, memory)
    assert not found.fits
    (change,) = [text for text in found.changes if text.startswith("o_proj") and text.endswith("enough")]
    match = re.match(r"o_proj tp (\d+) in place of 1", change)
    assert match
    changed = replace(layout, o_proj=replace(layout.o_proj, tp=int(match[1])))
    assert fit(config, changed, LOAD, memory).fits
    assert "does NOT fit" in next(lines(found))


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "--without-checkpoint", "Llama-3.1-8B", "--memory"]
    assert main([*words, "80GiB"]) == 0
    assert "fits 80.0 GiB a rank" in capsys.readouterr().out
    assert main([*words, "8GiB", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == "weft.explain/1" and "are missing" in captured.err
    assert main([*words, "much"]) == 2
    assert "a size such as 80GiB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "left"),
    [
        # 100 bytes, weights 20, working memory 30
        ("mem_fraction_static", 0.6 * 100 - 20 - 0),
        ("gpu_memory_utilization", 0.6 * 100 - 20 - 30),
        ("free_gpu_memory_fraction", 0.6 * (100 - 20 - 30)),
    ],
)
def test_every_engine_s_fraction_means_what_it_means_there(name: str, left: float) -> None:
    assert budget(100, {name: 0.6}).left(20, 30) == left
    assert budget(100, {"model": "x"}).left(20, 30) == 50
    assert budget(100, {name: "$SHARE"}) == budget(100, {name: 7}) == Budget(100)


def test_a_static_share_leaves_activations_their_part() -> None:
    assert budget(100, {"mem_fraction_static": 0.9}).left(20, 30) == 50
    assert budget(100, {"mem_fraction_static": 0.9}).left(80, 30) == -10
    assert budget(100, {"free_gpu_memory_fraction": 0.9}).left(80, 30) == -10


def test_another_engine_s_fraction_counts(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "--without-checkpoint", "--memory", "80GiB", "--from", "sglang", "--"]
    launch = ["python", "-m", "sglang.launch_server", "--model-path", "meta-llama/Llama-3.1-70B", "--tp", "2"]
    assert main([*words, *launch]) == 0
    capsys.readouterr()
    assert main([*words, *launch, "--mem-fraction-static", "0.5", "--no-such-flag"]) == 1
    captured = capsys.readouterr()
    assert "mem_fraction_static 0.5: of it for weights and KV" in captured.out and "--no-such-flag" in captured.err


def test_quantized_matrices_are_priced_in_their_width() -> None:
    plain = replace(config_of("DeepSeek-R1"), quantization="")
    layout = resolve({"attention.dp": 32}, num_experts=256)
    bf16, fp8 = (Shards(config, layout).bytes(0, 2) for config in (plain, replace(plain, quantization="fp8")))
    four = Shards(replace(plain, quantization="awq"), layout).bytes(0, 2)
    unknown = Shards(replace(plain, quantization="something"), layout).bytes(0, 2)
    for module in ("o_proj", "dense", "experts", "shared_experts"):
        assert bf16[module] == 2 * fp8[module] == 4 * four[module] == unknown[module]
    for module in ("embedding", "lm_head", "norm", "router"):
        assert bf16[module] == fp8[module] == four[module]
    assert fp8["attention"] < bf16["attention"] < 2 * fp8["attention"] + 2**20
