"""A quantization format that only this file defines: 2 bits a number and an fp16 scale for each 16."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.seams.quant_conformance import check_format
from weft.arch import parse_config
from weft.arch.quantization import WeightStorage
from weft.explain import explain
from weft.explain.text import print_report
from weft.layout.resolve import resolve
from weft.ops import Numerics, make_ops
from weft.ops.weights import Use
from weft.quant.base import PackedParts, QuantFormat, quantize, rounded
from weft.weight_formats import FORMATS, Chosen, FormatSizes

SIZES = FormatSizes(Chosen.OPTION, bits=2, numbers=16, nbytes=4 + 2, lm_head="int8")


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
    module = ModuleType("weft.quant.toy")
    vars(module)["FORMAT"] = Toy()
    monkeypatch.setitem(sys.modules, "weft.quant.toy", module)
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
    router = torch.randn(8, 48)
    assert torch.equal(ops.linear(x, ops.prepare(router, Use.KEPT), None), ops.linear(x, router, None))


def test_explain_counts_its_bytes() -> None:
    data = Path(__file__).parents[1] / "explain" / "data" / "config.json"
    config = parse_config(json.loads(data.read_text()))
    report = explain("m", config, resolve({"dense.tp": 2}, 2), dtype="bfloat16", storage=WeightStorage("toy"))
    elements = 3 * config.hidden_size * config.intermediate_size * config.num_layers
    console = Console(width=200)
    with console.capture() as capture:
        print_report(report, console)
    assert "matrices in toy" in capture.get()
    for rank in report.ranks:
        assert rank.bytes["dense"] == elements // 2 * 6 // 16
