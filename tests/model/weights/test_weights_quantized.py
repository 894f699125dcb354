"""Weights kept in codes: the numbers of every layout's slices, what they are priced at, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.checkpoints import make_checkpoint, make_gguf, small_config
from weft.base.errors import CheckpointError, ConfigError
from weft.base.settings import EngineConfig
from weft.base.weight_formats import kept_blocks
from weft.compute.native import isa
from weft.compute.native.build import ensure_built, find_compiler
from weft.compute.native.records import WeightKind
from weft.compute.ops import Numerics, make_ops
from weft.compute.ops.native.packed import PackedWeight
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.compute.ops.weights import Use, Weight, format_of_use
from weft.compute.quant.registry import format_of
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.layers import Prepare
from weft.model.layers.base import use_of
from weft.model.weights.loader import load_params
from weft.model.weights.storage import weight_storage
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler on this machine")

CPU = torch.device("cpu")
LAYOUTS: list[dict[str, Any]] = [
    {"attention.tp": 1},
    {"attention.tp": 2},
    {"attention.tp": 3},
    {"attention.tp": 2, "attention.dp": 2, "o_proj.tp": 4, "dense.tp": 1, "embedding.tp": 4, "lm_head.tp": 2},
]
SIZES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "head_dim": 32,
    "num_attention_heads": 3,
    "vocab_size": 67,
}


@pytest.fixture(autouse=True, scope="module")
def _built() -> None:
    ensure_built()


def ops_for(quantization: str) -> StepOps:
    ops = make_ops(Numerics(torch.bfloat16, quantization=quantization, compress_weights=False), CPU)
    assert isinstance(ops, StepOps)
    return ops


def loaded(checkpoint: Checkpoint, shards: Shards, rank: int, quantization: str | None) -> dict[str, Weight]:
    """Without `quantization`: plain tensors."""
    prepare = None if quantization is None else Prepare(ops_for(quantization), shards, rank)
    return load_params(checkpoint, shards.specs, shards, rank, torch.bfloat16, prepare=prepare).params


def numbers(weight: Weight) -> Tensor:
    return weight if isinstance(weight, Tensor) else weight.unpacked()


def kept_shards(checkpoint: Checkpoint, given: dict[str, Any], quantization: str) -> Shards:
    config = parse_config(checkpoint.config)
    plain = Shards(config, resolve(given))
    engine = EngineConfig(dtype="bfloat16", quantization=quantization)
    return Shards(config, plain.layout, storage=weight_storage(engine, checkpoint, plain.specs))


@pytest.mark.parametrize("qtype", list(kept_blocks()))
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("given", LAYOUTS, ids=str)
def test_blocks_of_a_file_are_the_numbers_it_says(
    tmp_path: Path, given: dict[str, Any], tied: bool, qtype: str
) -> None:
    config = small_config(tie_word_embeddings=tied, **SIZES)
    checkpoint = open_checkpoint(make_gguf(tmp_path / "m.gguf", config, qtype=qtype))
    shards = kept_shards(checkpoint, given, "gguf")
    for rank in range(shards.layout.world):
        plain, coded = loaded(checkpoint, shards, rank, None), loaded(checkpoint, shards, rank, "gguf")
        assert plain.keys() == coded.keys()
        for name, weight in coded.items():
            assert torch.equal(numbers(weight), numbers(plain[name])), name
            if isinstance(weight, PackedWeight):
                form = format_of(qtype).native
                assert form and (weight.kind == form.kind) == priced_in_codes(shards, rank, name), name
        assert "layers.0.attention.qkv.weight" in coded


def priced_in_codes(shards: Shards, rank: int, target: str) -> bool:
    """Whether explain counts the parameter at less than two bytes a number."""
    name = "embedding.weight" if target == "lm_head.weight" and shards.tied_view else target
    specs = [spec for spec in shards.counted_specs if spec.target == name]
    return all(shards.bytes_of(spec, rank, 2) < 2 * shards.elements_of(spec, rank) for spec in specs)


def test_a_cut_inside_a_block_is_unpacked_and_says_the_same(tmp_path: Path) -> None:
    config = small_config(**(SIZES | {"head_dim": 16, "num_attention_heads": 6, "num_key_value_heads": 3}))
    checkpoint = open_checkpoint(make_gguf(tmp_path / "m.gguf", config, qtype="Q4_0"))
    shards = kept_shards(
        checkpoint, {"attention.tp": 2, "attention.split": "groups", "o_proj.tp": 4, "attention.dp": 2}, "gguf"
    )
    found = {}
    for rank in range(4):
        coded, plain = loaded(checkpoint, shards, rank, "gguf"), loaded(checkpoint, shards, rank, None)
        weight = coded["layers.0.o_proj.weight"]
        assert isinstance(weight, PackedWeight)
        assert torch.equal(weight.unpacked(), numbers(plain["layers.0.o_proj.weight"]))
        assert (weight.kind == WeightKind.INT4) == priced_in_codes(shards, rank, "layers.0.o_proj.weight")
        found[rank] = weight.kind
    assert set(found.values()) == {WeightKind.INT4, WeightKind.BF16}


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("given", LAYOUTS, ids=str)
def test_rounding_on_load_is_that_of_the_twin(tmp_path: Path, given: dict[str, Any], quantization: str) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", small_config(**SIZES)))
    shards = kept_shards(checkpoint, given, quantization)
    twin = TorchOps(Numerics(torch.bfloat16, quantization=quantization), CPU)
    one = loaded(checkpoint, kept_shards(checkpoint, {"attention.tp": 1}, quantization), 0, None)
    for rank in range(shards.layout.world):
        plain, coded = loaded(checkpoint, shards, rank, None), loaded(checkpoint, shards, rank, quantization)
        for name, weight in coded.items():
            use, whole = use_of(name), numbers(plain[name])
            to = None if use is None else format_of_use(quantization, use)
            if use is None or to is None:
                continue
            assert isinstance(weight, PackedWeight) and to.native and weight.kind == to.native.kind
            cut = to.needs_peaks and numbers(one[name]).shape[1] > whole.shape[1]
            peaks = numbers(one[name]).float().abs().amax(1) if cut else None
            values = to.fake_quantize(whole, peaks=peaks)
            assert torch.equal(weight.rows(0, whole.shape[0]), values), name
            assert torch.equal(numbers(twin.prepare(whole, use, peaks)), values.bfloat16())
            assert priced_in_codes(shards, rank, name) or name == "lm_head.weight"


def test_of_a_head_eight_bits_are_kept() -> None:
    assert format_of_use("int4", Use.HEAD) is format_of_use("int8", Use.HEAD) is format_of("int8")
    assert format_of_use("int4", Use.GATED) is format_of("int4") and format_of_use("none", Use.LINEAR) is None


@pytest.mark.parametrize("quantization", ["none", "int8", "int4", "gguf"])
def test_bytes_are_those_that_are_held(tmp_path: Path, quantization: str) -> None:
    """Sizes in whole panels: padding is not priced."""
    config = small_config(**(SIZES | {"vocab_size": 96, "num_key_value_heads": 1, "num_attention_heads": 2}))
    checkpoint = open_checkpoint(make_gguf(tmp_path / "m.gguf", config, qtype="Q8_0"))
    shards = kept_shards(checkpoint, {"attention.tp": 1}, quantization)
    held = {
        part.data_ptr(): part.nbytes
        for weight in loaded(checkpoint, shards, 0, quantization).values()
        for part in ((weight,) if isinstance(weight, Tensor) else parts(weight))
        if part.numel()
    }
    assert sum(held.values()) == sum(shards.bytes(0, 2).values())


def parts(weight: Weight) -> tuple[Tensor, ...]:
    assert isinstance(weight, PackedWeight)
    return weight.data, weight.scale, weight.offset


def test_scales_that_are_not_finite_are_found(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "m.gguf", small_config(**SIZES), qtype="Q4_1")
    info = open_checkpoint(path).tensors["model.layers.0.mlp.up_proj.weight"]
    raw = bytearray(path.read_bytes())
    raw[info.offset + 2 : info.offset + 4] = b"\x00\x7e"  # NaN as the first block's offset
    path.write_bytes(raw)
    checkpoint = open_checkpoint(path)
    shards = kept_shards(checkpoint, {"attention.tp": 1}, "gguf")
    with pytest.raises(CheckpointError) as error:
        loaded(checkpoint, shards, 0, "gguf")
    assert error.value.problems == (f"{path}: {info.source}: wanted finite values, got 1 NaN",)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "float64", "quantization": "int8"}, "quantization int8: it computes in bfloat16 or float32"),
        ({"dtype": "float16", "quantization": "int4"}, "quantization int4: it computes in bfloat16 or float32"),
        ({"dtype": "float32", "quantization": "gguf"}, "quantization gguf: it computes in bfloat16, not in float32"),
        ({"dtype": "bfloat16", "quantization": "gguf"}, "the model has no tensor in Q8_0, Q4_0, Q4_1"),
        ({"dtype": "bfloat16", "quantization": "int8", "device": "cuda"}, "quantized weights run on the CPU only"),
    ],
    ids=str,
)
def test_what_cannot_be_kept_in_codes_is_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", small_config()))
    with pytest.raises(ConfigError, match=words) as error:
        weight_storage(EngineConfig(**settings), checkpoint, Shards(parse_config(checkpoint.config), resolve({})).specs)
    assert error.value.field == "quantization"


def test_rows_of_8_bits_need_matrices_in_codes() -> None:
    with pytest.raises(ConfigError, match="give --quantization int8, int4 or gguf too") as error:
        weight_storage(EngineConfig(dtype="bfloat16", activations="int8"), None, ())
    assert error.value.field == "activations"


@pytest.mark.parametrize("rounds", [False, True])
def test_what_rows_are_is_said(rounds: bool) -> None:
    said = make_ops(Numerics(torch.bfloat16, quantization="int8", int8_activations=rounds), CPU).describe()
    assert f"weights packed as int8, {'int8' if rounds else 'full-precision'} activations," in said
    assert " activations" not in make_ops(Numerics(torch.bfloat16), CPU).describe()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"dtype": "float32"},
            "it needs bfloat16, not float32; give --dtype bfloat16, or leave --compress-weights out",
        ),
        ({"dtype": "bfloat16", "device": "cuda"}, "on the CPU only, not on cuda; give --device cpu"),
        ({"dtype": "bfloat16", "quantization": "int8"}, "with --quantization int8 weights are quantized already"),
    ],
)
def test_compressed_numbers_are_refused_where_there_are_none(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        weight_storage(EngineConfig(compress_weights=True, **settings), None, ())
    assert error.value.field == "compress_weights"
    for asked in (None, False):
        weight_storage(EngineConfig(compress_weights=asked, **settings), None, ())


def test_compressed_numbers_meet_the_library_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.compute.ops.open_library", lambda: None)
    with pytest.raises(ConfigError, match="leave --compress-weights out") as error:
        make_ops(Numerics(torch.bfloat16, compress_weights=True), CPU)
    assert error.value.field == "compress_weights"
    assert type(make_ops(Numerics(torch.bfloat16), CPU)) is TorchOps


@pytest.mark.parametrize("asked", [None, False, True])
def test_matrices_that_layers_multiply_by_are_compressed_where_asked_or_faster(asked: bool | None) -> None:
    ops = make_ops(Numerics(torch.bfloat16, compress_weights=asked), CPU)
    assert isinstance(ops, StepOps)
    faster = isa.chosen() in ("amx", "avx512bf16", "avx2")
    wanted = WeightKind.BF16_12BIT if (faster if asked is None else asked) else WeightKind.BF16
    matrix = torch.randn(64, 64).bfloat16()
    kinds = {use: ops.prepare(matrix, use).kind for use in Use}  # type: ignore[union-attr]
    assert kinds == {use: WeightKind.BF16 if use is Use.KEPT else wanted for use in Use}
    said = f", bf16 in 12 bits ({len(Use) - 1} of {len(Use) - 1} matrices)"
    assert (said in ops.describe()) == (wanted == WeightKind.BF16_12BIT) == ("12 bits" in ops.describe())
    fp32 = make_ops(Numerics(torch.float32, compress_weights=asked), CPU)
    assert fp32.prepare(matrix.float(), Use.LINEAR).kind == WeightKind.F32  # type: ignore[union-attr]


def test_what_could_not_be_compressed_is_said() -> None:
    ops = make_ops(Numerics(torch.bfloat16, compress_weights=True), CPU)
    wide = torch.randn(64, 64) * 2.0 ** torch.randint(-60, 60, (64, 64))
    kinds = [ops.prepare(matrix.bfloat16(), Use.LINEAR).kind for matrix in (wide, torch.randn(64, 64))]  # type: ignore[union-attr]
    assert kinds == [WeightKind.BF16, WeightKind.BF16_12BIT]
    assert ", bf16 in 12 bits (1 of 2 matrices)" in ops.describe()


def test_blocks_of_a_file_meet_rounded_rows_in_the_library_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.compute.ops.open_library", lambda: None)
    with pytest.raises(ConfigError, match="give --activations full"):
        make_ops(Numerics(torch.bfloat16, quantization="gguf", int8_activations=True), CPU)
    made = make_ops(Numerics(torch.bfloat16, quantization="int8", int8_activations=True), CPU)
    assert type(made) is TorchOps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_the_twin_rounds_rows_as_the_library_does(quantization: str, dtype: torch.dtype) -> None:
    numerics = Numerics(dtype, quantization=quantization, int8_activations=True)
    weight, x = torch.randn(64, 200).to(dtype), torch.randn(9, 200).to(dtype)
    twin, library = TorchOps(numerics, CPU), make_ops(numerics, CPU)
    assert isinstance(library, StepOps)
    tolerance: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 0.02, "atol": 1e-2}
    for use, call in [(Use.LINEAR, "linear"), (Use.GATED, "gated"), (Use.HEAD, "logits")]:
        rest = () if call == "logits" else (None,)
        found, wanted = (getattr(ops, call)(x, ops.prepare(weight, use), *rest) for ops in (library, twin))
        torch.testing.assert_close(found, wanted, **tolerance)
    ids = torch.tensor([0, 63, 5])
    torch.testing.assert_close(*(ops.embedding(ids, ops.prepare(weight, Use.HEAD), 0) for ops in (library, twin)))
    router = torch.randn(8, 200).to(dtype)
    plain = TorchOps(Numerics(dtype), CPU).linear(x, router, None)
    assert torch.equal(twin.linear(x, twin.prepare(router, Use.KEPT), None), plain)


def as_q4_1(weight: Tensor) -> Tensor:
    """What ggml's quantize_row_q4_1 makes of it: a scale and an offset of 16 bits each, for the span as it is."""
    groups = weight.view(weight.shape[0], -1, 32)
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    offset, scale = low.half().float(), ((high - low) / 15).half().float()
    return (((groups - offset) / scale).round().clamp(0, 15) * scale + offset).view(weight.shape)


def test_four_bits_lose_less_than_with_offsets_of_16_bits() -> None:
    """Scales and offsets share 16 bits, but several are tried; the numbers of such a file are almost found again."""
    weight = torch.randn(500, 640, generator=torch.Generator().manual_seed(5)) * 0.02
    int4 = format_of("int4")
    plain, tried = as_q4_1(weight), int4.fake_quantize(weight, as_bf16=False)
    lost = (plain - weight).square().sum()
    assert (tried - weight).square().sum() < 0.85 * lost
    assert (int4.fake_quantize(plain, as_bf16=False) - plain).square().sum() < 0.08 * lost
