"""Does a layout fit into a rank's memory: the sums, the KV tokens that remain, and changes that really make room."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from weft.cli.args.model_config import KNOWN
from weft.cli.main import main
from weft.parallel.arch import ModelConfig, Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.tools.explain.fits import Budget, CacheLimits, StepLoad, budget, cache_lines, fit, lines
from weft.tools.explain.memory import memory_of_ranks

GIB = 2**30
LOAD = StepLoad(rows=2048, sampled=64, itemsize=2)


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


def test_larger_attention_and_experts_are_proposed() -> None:
    """The smallest that is enough: half of it would not be."""
    found = fit(config_of("Llama-3.1-70B"), resolve({"attention.dp": 8}), LOAD, Budget(40 * GIB))
    (attention,) = [text for text in found.changes if text.startswith("attention tp 4 (dp 2) in place of 1 (dp 8)")]
    assert attention.endswith("enough")
    for tp, fits in ((2, False), (4, True)):
        layout = resolve({"attention.tp": tp, "attention.dp": 8 // tp})
        assert fit(config_of("Llama-3.1-70B"), layout, LOAD, Budget(40 * GIB)).fits == fits
    config = config_of("DeepSeek-V3")
    found = fit(config, resolve({"attention.tp": 16, "experts.ep": 4}, num_experts=256), LOAD, Budget(80 * GIB))
    for change, ep, tp in (("experts ep 8 in place of 4", 8, 1), ("experts tp 2 in place of 1", 4, 2)):
        (text,) = [text for text in found.changes if text.startswith(change)]
        given = {"attention.tp": 16, "experts.ep": ep, "experts.tp": tp}
        assert text.endswith("enough")
        assert fit(config, resolve(given, num_experts=256), LOAD, Budget(80 * GIB)).fits


def test_changes_that_are_enough_only_together() -> None:
    config, memory = config_of("Llama-3.1-70B"), Budget(24 * GIB)
    given: dict[str, object] = {"attention.tp": 8, "o_proj.tp": 1, "dense.tp": 2, "embedding.tp": 1, "lm_head.tp": 1}
    found = fit(config, resolve(given), LOAD, memory)
    singles = [text for text in found.changes if " tp " in text and not text.startswith("together")]
    assert singles and not any(text.endswith("enough") for text in singles)
    (text,) = [text for text in found.changes if text.startswith("together, ")]
    given |= {f"{module}.tp": int(size) for module, size in re.findall(r"(\w+) tp (\d+)", text)}
    assert text.endswith("enough") and fit(config, resolve(given), LOAD, memory).fits


def test_smaller_limits_are_proposed_where_they_help() -> None:
    config, layout = config_of("Llama-3.1-8B"), resolve({}, tp=1)
    wide = StepLoad(rows=65536, sampled=4096, itemsize=2)
    found = fit(config, layout, wide, Budget(20 * GIB))
    (rows,) = [text for text in found.changes if text.startswith("max_num_batched_tokens")]
    match = re.match(r"max_num_batched_tokens (\d+) in place of 65536", rows)
    assert match and int(match[1]) >= 4096 and rows.endswith("enough")
    assert fit(config, layout, replace(wide, rows=int(match[1])), Budget(20 * GIB)).fits
    assert not fit(config, layout, replace(wide, rows=2 * int(match[1])), Budget(20 * GIB)).fits
    many = StepLoad(rows=8192, sampled=8192, itemsize=2)
    found = fit(config, layout, many, Budget(17 * GIB))
    (seqs,) = [text for text in found.changes if text.startswith("max_num_seqs")]
    match = re.match(r"max_num_seqs (\d+) in place of 8192", seqs)
    assert match and seqs.endswith("enough")
    assert fit(config, layout, replace(many, sampled=int(match[1])), Budget(17 * GIB)).fits


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "--without-checkpoint", "Llama-3.1-8B", "--memory"]
    assert main([*words, "80GiB"]) == 0
    assert "fits 80.0 GiB a rank" in capsys.readouterr().out
    assert main([*words, "8GiB", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == "weft.explain/3" and "are missing" in captured.err
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


def test_what_a_cache_holds() -> None:
    """In whole blocks of the rank that holds most keys and values."""
    ranks = memory_of_ranks(Shards(config_of("Llama-3.1-70B"), resolve({}, tp=8)), 2)
    each = max(rank.kv_bytes_per_token for rank in ranks)
    limits = CacheLimits(nbytes=each * 100, longest=20, block=16)
    first, second = cache_lines(None, ranks, limits)
    assert "holds 96 tokens in each group" in first and second.endswith("20 tokens, prompt and answer, 3 at once")
    (alone,) = cache_lines(None, ranks, CacheLimits(nbytes=each * 100, longest=None, block=16))
    assert alone == first
    assert list(cache_lines(None, ranks, CacheLimits(nbytes=None, longest=20, block=16))) == []
    *_, none = cache_lines(None, ranks, CacheLimits(nbytes=each * 16, longest=20, block=16))
    assert none.endswith("not even one")
