"""A quantization format of this file alone, without C++ kernels: 2 bits a number and an fp16 scale for each 16."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.seams.quant_conformance import check_format
from tests.support.tiny_chat import write_tiny_chat
from weft.base.weight_formats import FORMATS, Chosen, FormatSizes
from weft.compute.ops import Numerics, make_ops
from weft.compute.ops.weights import Use
from weft.compute.quant.base import PackedParts, QuantFormat, quantize, rounded
from weft.parallel.arch import parse_config
from weft.parallel.arch.quantization import WeightStorage
from weft.parallel.layout.resolve import resolve
from weft.tools.explain import explain
from weft.tools.explain.text import print_report

SIZES = FormatSizes(Chosen.OPTION, bits=2, numbers=16, nbytes=4 + 2, lm_head="int8")


ROOT = Path(__file__).parents[2]
REGISTERED = """
import pickle
import weft.compute.quant
from weft.base.weight_formats import FORMATS
weft.compute.quant.__path__.append({folder!r})
FORMATS["toy"] = pickle.loads({sizes!r})
"""
"""What each process runs first, as `sitecustomize`: its table of formats has the row, and finds the module."""
MODULE = "from tests.seams.test_toy_quant import Toy; FORMAT = Toy()"


class Toy(QuantFormat):
    """data uint8 [out, groups * 4]: four values a byte; scale fp16 [out, groups]."""

    name = "toy"

    def pack(self, weight: Tensor, peaks: Tensor | None = None) -> PackedParts:
        groups = weight.float().view(weight.shape[0], -1, 16)
        scale = groups.abs().amax(2, keepdim=True).half()
        values = (quantize(groups, scale.float(), -1, 1) + 1).to(torch.uint8).view(*groups.shape[:2], 4, 4)
        data = sum(values[..., place] << 2 * place for place in range(4))
        assert isinstance(data, Tensor)
        return PackedParts(data.flatten(1), scale.squeeze(2))

    def unpack(self, parts: PackedParts, depth: int, as_bf16: bool = True) -> Tensor:
        values = torch.stack([parts.data >> 2 * place & 3 for place in range(4)], -1).float() - 1
        groups = values.view(*parts.scale.shape, 16) * parts.scale.float()[..., None]
        return rounded(groups.flatten(1), as_bf16)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("weft.compute.quant.toy")
    vars(module)["FORMAT"] = Toy()
    monkeypatch.setitem(sys.modules, "weft.compute.quant.toy", module)
    monkeypatch.setitem(FORMATS, "toy", SIZES)


def test_toy_format_meets_the_seam() -> None:
    check_format("toy")


@pytest.mark.parametrize("int8_activations", [False, True])
def test_a_linear_layer_runs_with_it(int8_activations: bool) -> None:
    ops = make_ops(Numerics(torch.float32, quantization="toy", int8_activations=int8_activations), "cpu")
    signs = torch.randint(-1, 2, (24, 48)).float()
    signs[:, ::16] = 1
    x = torch.randint(-127, 128, (5, 48)).float()
    x[:, ::32] = 127
    assert torch.equal(ops.linear(x, ops.prepare(signs, Use.LINEAR), None), x @ signs.T)
    router = torch.randint(-9, 10, (8, 48)).float()
    assert torch.equal(ops.linear(x, ops.prepare(router, Use.KEPT), None), ops.linear(x, router, None))


def test_explain_counts_its_bytes() -> None:
    data = Path(__file__).parents[1] / "tools" / "explain" / "data" / "config.json"
    config = parse_config(json.loads(data.read_text()))
    report = explain("m", config, resolve({"dense.tp": 2}, 2), dtype="bfloat16", storage=WeightStorage("toy"))
    elements = 3 * config.hidden_size * config.intermediate_size * config.num_layers
    console = Console(width=200)
    with console.capture() as capture:
        print_report(report, console)
    assert "matrices in toy" in capture.get()
    for rank in report.ranks:
        assert rank.bytes["dense"] == elements // 2 * 6 // 16


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose matrices the format keeps as they are, also those of two ranks."""
    model = write_tiny_chat(tmp_path_factory.mktemp("exact") / "model", intermediate_size=96)
    weights = load_file(model / "model.safetensors")
    signs = {name: weight.sign() / 8 for name, weight in weights.items() if weight.dim() == 2 and "embed" not in name}
    save_file({**weights, **signs}, model / "model.safetensors", metadata={"format": "pt"})
    return model


def generated(model: Path, folder: Path, *words: str) -> list[int]:
    """Greedy tokens of a process that starts ranks, all of which have the format."""
    (folder / "sitecustomize.py").write_text(REGISTERED.format(folder=str(folder), sizes=pickle.dumps(SIZES)))
    (folder / "toy.py").write_text(MODULE)
    command = [sys.executable, "-m", "weft", "generate", str(model), "abc", "--json", *words]
    sampling = ("--max-tokens", "24", "--temperature", "0", "--ignore-eos")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    done = subprocess.run([*command, *sampling], env=environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    tokens: list[int] = json.loads(done.stdout)["results"][0]["outputs"][0]["token_ids"]
    return tokens


@pytest.fixture(scope="module")
def unquantized(exact: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    return generated(exact, tmp_path_factory.mktemp("none"))


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_ranks_run_a_format_without_kernels_of_its_own(
    ranks: str, exact: Path, unquantized: list[int], tmp_path: Path
) -> None:
    assert len(set(unquantized)) > 8
    assert generated(exact, tmp_path, "--quantization", "toy", "--tp", ranks) == unquantized
