"""An upcycled model answers as the dense one does, routes as asked, and is a checkpoint that transformers reads too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.exact_model import write_random
from weft.base.errors import ConfigError, UsageError
from weft.base.settings import EngineConfig
from weft.cli.main import main
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import ModelConfig, Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.upcycle.routers import Skew, layer_inputs, router_rows
from weft.tools.upcycle.upcycle import target_of
from weft.tools.verify.record import GreedyOutput, LogitsRecorder, Prompt, outcomes

PROMPTS: list[Prompt] = [tuple(range(3, 20)), (1, 2), tuple(range(90, 50, -4))]


def run(path: Path, given: Mapping[str, object], world: int) -> list[GreedyOutput]:
    checkpoint = open_checkpoint(path)
    config = parse_config(checkpoint.config)
    shards = Shards(config, resolve(given, world, num_experts=config.num_experts))
    limits = RankCapacity(num_blocks=40, block_size=8, max_num_seqs=4, max_model_len=64)
    recorder = LogitsRecorder(
        LockstepExecutor(checkpoint, shards, Numerics(torch.float32), limits, torch.device("cpu"))
    )
    engine = EngineConfig(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=16, block_size=8)
    return outcomes(Engine(recorder, engine, ()), recorder, PROMPTS, 4)


@pytest.mark.parametrize("variant", ["tied", "plain", "qwen3"])
def test_answers_are_the_dense_models(variant: str, tmp_path: Path) -> None:
    qwen3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "max_position_embeddings": 256}
    sizes = {**(qwen3 if variant == "qwen3" else {"max_position_embeddings": 256}), "attention_bias": False}
    dense = write_random(tmp_path / "dense", "tied", sizes={**sizes, "tie_word_embeddings": variant == "tied"})
    words = ["upcycle", str(dense), "--experts", "6", "--top-k", "3", "--skew", "zipf:1.2", "--dtype", "float32"]
    assert main([*words, "--out", str(tmp_path / "mixture")]) == 0
    wanted = run(dense, {}, 1)
    for given, world in (({}, 1), ({"attention.dp": 2, "experts.ep": 2, "experts.slots": 8}, 2), ({}, 3)):
        for want, got in zip(wanted, run(tmp_path / "mixture", given, world), strict=True):
            assert got.tokens == want.tokens
            torch.testing.assert_close(torch.stack(got.logits), torch.stack(want.logits), atol=1e-4, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_it(tmp_path: Path) -> None:
    dense = write_random(tmp_path / "dense", "tied", sizes={"max_position_embeddings": 256})
    assert main(["upcycle", str(dense), "--experts", "4", "--dtype", "float32", "--out", str(tmp_path / "m")]) == 0
    assert len({path.stat().st_mode for path in (tmp_path / "m").iterdir()}) == 1, "readers of one file may read all"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    outcome = run(dense, {}, 1)[0]
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    torch.testing.assert_close(logits, outcome.logits[0], atol=1e-4, rtol=1e-4)


def test_routing_is_as_skewed_as_asked() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(4000, 48) + torch.randn(48)
    for exponent in (0.0, 1.2):
        (router,) = router_rows([inputs], 8, Skew(exponent), seed=3)
        chosen = (inputs @ router.T).argmax(-1)
        shares = (torch.bincount(chosen, minlength=8) / 4000).sort(descending=True).values
        wanted = Skew(exponent).shares(8)
        assert float((shares - wanted).abs().max()) < 0.12
        assert (shares[0] > 2.5 * shares[3]) == (exponent > 0)


def test_inputs_of_every_layer_are_seen(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_random(tmp_path, "biased"))
    found = layer_inputs(checkpoint, parse_config(checkpoint.config))
    assert len(found) == checkpoint.config["num_hidden_layers"] and all(x.shape == (48, 64) for x in found)
    assert not torch.equal(found[0], found[1])


def test_what_cannot_be_upcycled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = write_random(tmp_path / "dense", "tied")
    assert main(["upcycle", str(dense), "--experts", "2", "--top-k", "3", "--out", str(tmp_path / "m")]) == 78
    assert "legal: 1 to 2" in capsys.readouterr().err
    assert main(["upcycle", str(dense), "--out", str(dense)]) == 78
    capsys.readouterr()
    assert main(["upcycle", str(dense), "--out", str(dense / "config.json" / "m")]) == 78
    assert capsys.readouterr().err.endswith(": Not a directory\n")
    assert main(["upcycle", str(dense), "--skew", "zipf", "--out", str(tmp_path / "m")]) == 2
    assert main(["upcycle", str(dense), "--experts", "0", "--out", str(tmp_path / "m")]) == 78
    assert capsys.readouterr().err.endswith("--experts: 0 is out of range; legal: at least 1\n")
    biased: ModelConfig = parse_config(json.loads((write_random(tmp_path / "b", "biased") / "config.json").read_text()))
    with pytest.raises(ConfigError, match="biases"):
        target_of(biased)
    with pytest.raises(UsageError, match="exponent"):
        Skew.parse("zipf:-1")


def test_what_the_disk_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So much is said to be needed as is written."""
    dense, out = write_random(tmp_path / "dense", "tied"), tmp_path / "new" / "m"
    words = ["upcycle", str(dense), "--experts", "6", "--out", str(out)]
    assert main(words) == 0
    index = json.loads((out / "model.safetensors.index.json").read_text())
    needed = index["metadata"]["total_size"]
    shutil.rmtree(out.parent)
    usage = shutil.disk_usage(tmp_path)
    for free, code in ((needed, 0), (needed - 1, 78), (needed // 8, 78)):
        shutil.rmtree(out.parent, ignore_errors=True)
        capsys.readouterr()
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert main(words) == code
        assert out.parent.exists() == (code == 0)
        said = capsys.readouterr().err
        assert ("free; legal: 1 to 5, or an --out on another disk" in said) == (free == needed - 1)
        assert ("free; give another --out" in said) == (free == needed // 8)
