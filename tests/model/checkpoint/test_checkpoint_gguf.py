"""GGUF files: header against the gguf package's reader, config in HF's words, names, and what is refused."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checkpoints import make_gguf, package_reader, small_config, smollm2, trained_tokenizer
from weft.base.errors import CheckpointError
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.checkpoint.gguf.header import read_gguf_header
from weft.model.checkpoint.gguf.rope import llama3_factors
from weft.parallel.arch import param_specs, parse_config
from weft.parallel.arch.families.registry import gguf_architectures


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value.problems


def assert_same_as_package(path: Path) -> None:
    header, reader = read_gguf_header(path), package_reader(path)
    wanted = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata == wanted
    assert [(t.source, t.dtype, list(t.shape), t.offset, t.nbytes) for t in header.tensors] == [
        (t.name, t.tensor_type.name, t.shape[::-1].tolist(), t.data_offset, t.n_bytes) for t in reader.tensors
    ]


def test_embedded_model_reads_as_the_package_reads_it() -> None:
    assert_same_as_package(smollm2())


@pytest.mark.parametrize("qtype", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_small_files_read_as_the_package_reads_them(tmp_path: Path, qtype: str) -> None:
    path = make_gguf(tmp_path / "m.gguf", small_config(), qtype=qtype, tokenizer=trained_tokenizer())
    assert_same_as_package(path)


def test_every_value_type(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint8("k.u8", 200)
    writer.add_int8("k.i8", -3)
    writer.add_uint16("k.u16", 65000)
    writer.add_int16("k.i16", -30000)
    writer.add_uint32("k.u32", 4_000_000_000)
    writer.add_int32("k.i32", -2_000_000_000)
    writer.add_uint64("k.u64", 2**63)
    writer.add_int64("k.i64", -(2**62))
    writer.add_float32("k.f32", 0.5)
    writer.add_float64("k.f64", 0.1)
    writer.add_bool("k.bool", True)
    writer.add_string("k.text", "schön 🙂")
    writer.add_array("k.words", ["a", "", "ü"])
    writer.add_array("k.numbers", [1, -2, 3])
    writer.add_array("k.flags", [True, False])
    writer.add_tensor("t", np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_same_as_package(tmp_path / "m.gguf")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_config_and_names_are_hfs(tmp_path: Path, family: str, tied: bool) -> None:
    config = small_config(family, tie_word_embeddings=tied)
    path = make_gguf(tmp_path / "m.gguf", config, tokenizer=trained_tokenizer())
    checkpoint = open_checkpoint(path)
    assert {key: checkpoint.config[key] for key in config if key not in ("torch_dtype", "eos_token_id")} == {
        key: value for key, value in config.items() if key not in ("torch_dtype", "eos_token_id")
    }
    assert parse_config(checkpoint.config) == parse_config({**config, "eos_token_id": [0]})
    specs = {spec.name: spec.shape for spec in param_specs(parse_config(config))}
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == specs
    permuted = {name for name, info in checkpoint.tensors.items() if info.heads}
    if family == "llama":
        assert permuted == {name for name in specs if ".q_proj." in name or ".k_proj." in name}
        assert checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"].heads == 9
        assert checkpoint.tensors["model.layers.1.self_attn.k_proj.weight"].heads == 3
    else:
        assert not permuted


def test_embedded_model_config() -> None:
    config = parse_config(open_checkpoint(smollm2()).config)
    assert (config.family, config.hidden_size, config.intermediate_size, config.num_layers) == ("llama", 576, 1536, 30)
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size) == (9, 3, 64, 49152)
    assert (config.tie_embeddings, config.max_position, config.rope.theta) == (True, 8192, 100000.0)
    assert (config.rms_norm_eps, config.eos_token_ids, config.rope.scaling) == (1e-5, (2,), None)


def test_table_is_small_and_whole() -> None:
    checkpoint = open_checkpoint(smollm2())
    table = checkpoint.table()
    assert len(table) < 100_000  # without the 98,000 strings of the vocabulary
    assert Checkpoint.from_table(table).tensors == checkpoint.tensors


def test_windows_make_it_a_mistral(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "m.gguf", small_config("mistral"), metadata={"llama.attention.sliding_window": 64})
    config = parse_config(open_checkpoint(path).config)
    assert (config.family, config.block.windows) == ("mistral", (64, 64))
    path = make_gguf(tmp_path / "q.gguf", small_config("qwen2"), metadata={"qwen2.attention.sliding_window": 64})
    assert parse_config(open_checkpoint(path).config).block.windows == (64, 64)


def test_end_of_turn_ends_too(tmp_path: Path) -> None:
    path = make_gguf(
        tmp_path / "m.gguf", small_config(), tokenizer=trained_tokenizer(), metadata={"tokenizer.ggml.eot_token_id": 7}
    )
    assert open_checkpoint(path).eos_token_ids() == (0, 7)


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({"type": "none"}, None),
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 128},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        ),
    ],
)
def test_rope_scaling_keys(tmp_path: Path, keys: dict[str, Any], scaling: dict[str, Any] | None) -> None:
    metadata = {f"llama.rope.scaling.{key}": value for key, value in keys.items()}
    config = open_checkpoint(make_gguf(tmp_path / "m.gguf", small_config(), metadata=metadata)).config
    assert config.get("rope_scaling") == scaling


def with_rope_freqs(path: Path, factors: list[float]) -> Path:
    """The file of make_gguf again, with a rope_freqs tensor."""
    reader = gguf.GGUFReader(make_gguf(path.with_suffix(".plain"), small_config()))
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if key.startswith("llama."):
            kind = field.types[0]
            writer.add_key_value(key, field.contents(), kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_found_again(tmp_path: Path, factor: float) -> None:
    """Factors by the formula of transformers' _compute_llama3_parameters, in its own form."""
    low, high, length, theta = 1.0, 4.0, 8192, 10000.0
    factors = []
    for i in range(16):
        frequency = 1 / theta ** (2 * i / 32)
        wavelength = 2 * math.pi / frequency
        if wavelength < length / high:
            factors.append(1.0)
        elif wavelength > length / low:
            factors.append(factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            factors.append(frequency / ((1 - smooth) * frequency / factor + smooth * frequency))
    checkpoint = open_checkpoint(with_rope_freqs(tmp_path / "m.gguf", factors))
    scaling = checkpoint.config["rope_scaling"]
    assert scaling == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": length,
    }
    assert llama3_factors(scaling, theta, 32) == pytest.approx(factors)
    assert checkpoint.ignored == ("rope_freqs.weight",)
    assert "rope_freqs.weight" not in checkpoint.tensors


def test_other_frequency_factors_are_refused(tmp_path: Path) -> None:
    assert (
        "rope_freqs.weight: not the factors" in problems(with_rope_freqs(tmp_path / "m.gguf", [2.0] * 8 + [9.0] * 8))[0]
    )
    assert open_checkpoint(with_rope_freqs(tmp_path / "n.gguf", [1.0] * 16)).config.get("rope_scaling") is None
    for last in (0.0, 1e-6, 1e-40, -1.0, float("inf"), float("nan")):
        path = with_rope_freqs(tmp_path / "p.gguf", [1.0] * 15 + [last])
        assert "rope_freqs.weight: not the factors" in problems(path)[0], last
    assert "wanted F32 [16]" in problems(with_rope_freqs(tmp_path / "o.gguf", [1.0] * 4))[0]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("llama.expert_count", 8, "llama.expert_used_count: missing"),
        ("llama.expert_used_count", 8, "llama.expert_used_count: 8 is not supported"),
        ("llama.residual_scale", 2.0, "llama.residual_scale: not known"),
        ("llama.rope.dimension_count", 8, "only the head size 32"),
        ("llama.rope.scaling.type", "longrope", "'longrope' is not supported; supported: none, linear, yarn"),
        ("llama.rope.scaling.type", "linear", "llama.rope.scaling.factor: missing"),
        ("llama.rope.scaling.attn_factor", 1.25, "attn_factor: 1.25 is not supported"),
        ("split.count", 3, "split.count 3: a part of a model"),
        ("llama.attention.causal", False, "only True"),
    ],
)
def test_what_changes_the_model_is_refused_by_name(tmp_path: Path, key: str, value: Any, words: str) -> None:
    assert any(
        words in line for line in problems(make_gguf(tmp_path / "m.gguf", small_config(), metadata={key: value}))
    )


@pytest.mark.parametrize("key", ["llama.expert_count", "llama.expert_used_count"])
def test_keys_that_switch_nothing_on_are_taken(tmp_path: Path, key: str) -> None:
    assert open_checkpoint(make_gguf(tmp_path / "m.gguf", small_config(), metadata={key: 0}))


def write_keys(path: Path, arch: str, keys: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    for key, value in keys.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_float64(key, value) if isinstance(value, float) else writer.add_uint32(key, value)
    writer.add_tensor("token_embd.weight", np.ones((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.filterwarnings("error")
def test_floats_beyond_those_of_llama_cpp_are_refused(tmp_path: Path) -> None:
    found = problems(write_keys(tmp_path / "m.gguf", "llama", {"llama.rope.freq_base": 1e300}))
    assert any("llama.rope.freq_base: 1e+300 is beyond 32-bit floats" in line for line in found)


def test_unsupported_architecture_is_named(tmp_path: Path) -> None:
    found = problems(write_keys(tmp_path / "m.gguf", "starcoder2", {}))
    supported = ", ".join(gguf_architectures())
    assert found == (f"{tmp_path / 'm.gguf'}: architecture 'starcoder2' is not supported; supported: {supported}",)


def test_missing_and_odd_sizes_are_all_named(tmp_path: Path) -> None:
    keys = {"llama.block_count": 0, "llama.attention.head_count": [4, 8], "llama.mystery": 1}
    found = problems(write_keys(tmp_path / "m.gguf", "llama", keys))
    for words in ("embedding_length: missing", "block_count: 0 is not", "a size for each layer", "mystery: not known"):
        assert any(words in line for line in found), words


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a GGUF file"),
        (b"PK\x03\x04 and so on", "not a GGUF file"),
        (b"GGUF\x03\x00", "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1 is not supported"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0), "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77), "value type 77 is not supported"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "value type 9 is not supported"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 5, 2**61), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**61), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ1s", 3, 0, 1, 1, b"\xff"), "can't decode"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"t", 99), "99 dims"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 4, 999, 0), "unknown tensor type 999"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 33, 8, 0), "rows of 33 are not whole Q8_0 blocks"),
    ],
)
def test_files_that_are_no_gguf(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    assert words in problems(path)[0]


def test_truncated_data_names_each_tensor_cut(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "m.gguf", small_config())
    tensors = sorted(open_checkpoint(path).tensors.values(), key=lambda tensor: tensor.offset)
    path.write_bytes(path.read_bytes()[: tensors[-2].end - 1])
    found = problems(path)
    assert len(found) == 2
    assert all(f"{path}: {tensor.source}: truncated" in line for tensor, line in zip(tensors[-2:], found, strict=True))


def test_overlapping_and_repeated_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    row = struct.pack("<IQIQ", 1, 8, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 3, 0)
    rows = b"".join(struct.pack("<Q1s", 1, name) + row for name in (b"a", b"b", b"b"))
    path.write_bytes((head + rows).ljust(256, b"\0"))
    found = problems(path)
    assert any("b: appears twice" in line for line in found)
    assert any("begins at byte" in line for line in found)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_header_is_never_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    plain = folder / "plain.gguf"
    if not plain.exists():
        make_gguf(plain, small_config(num_hidden_layers=1), tokenizer=trained_tokenizer(270))
    whole = plain.read_bytes()
    start = min(tensor.offset for tensor in open_checkpoint(plain).tensors.values())
    at = data.draw(st.integers(0, start - 1))
    change = data.draw(st.binary(min_size=1, max_size=9))
    path = folder / "damaged.gguf"
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        path.write_bytes(whole[:at] + change + whole[at + len(change) :])
    try:
        open_checkpoint(path)
    except CheckpointError:
        pass
