"""Checkpoints that do not fit, or hold what no model may: everything is found, named, and said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from tests.support.checkpoints import make_checkpoint, make_gguf, random_weights, small_config, write_safetensors
from weft.base.errors import CheckpointError
from weft.compute.ops.weights import plain
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.checkpoint.formats import LOADABLE
from weft.model.weights.check import check_checkpoint
from weft.model.weights.loader import LoadedParams, load_params
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve

Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
NORM = "model.norm.weight"


def write(directory: Path, config: dict[str, Any], **changes: torch.Tensor | None) -> Checkpoint:
    """A checkpoint whose tensors are changed, added, or (None) left out."""
    make_checkpoint(directory, config)
    weights = {name: torch.from_numpy(x) for name, x in random_weights(config).items()}
    weights |= {name: x for name, x in changes.items() if x is not None}
    write_safetensors(directory, {name: x for name, x in weights.items() if changes.get(name, x) is not None})
    return open_checkpoint(directory)


def shards_of(checkpoint: Checkpoint, **given: Any) -> Shards:
    return Shards(parse_config(checkpoint.config), resolve(given or {"attention.tp": 1}))


def load(checkpoint: Checkpoint, rank: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> LoadedParams:
    shards = shards_of(checkpoint, **{"attention.tp": options.pop("tp", 1)})
    return load_params(checkpoint, shards.specs, shards, rank, dtype, **options)


def problems(checkpoint: Checkpoint, **options: Any) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        load(checkpoint, **options)
    return caught.value.problems


def test_all_faults_in_one_error(tmp_path: Path) -> None:
    checkpoint = write(
        tmp_path,
        small_config(),
        **{
            Q: torch.zeros(287, 288),
            DOWN: None,
            NORM: torch.zeros(288, dtype=torch.int32),
            "model.layers.0.mlp.extra.weight": torch.zeros(2, 3),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(16),
        },
    )
    file = tmp_path / "model.safetensors"
    wanted = {
        f"{file}: {Q}: wanted [288, 288], got [287, 288]",
        f"{tmp_path}: {DOWN}: wanted [288, 160], got: missing",
        f"{file}: {NORM}: wanted one of {', '.join(LOADABLE)}, got I32",
        f"{file}: model.layers.0.mlp.extra.weight: wanted: no such tensor in this model, got F32 [2, 3]",
    }
    assert set(problems(checkpoint)) == wanted
    with pytest.raises(CheckpointError, match="4 problems") as caught:
        check_checkpoint(checkpoint, shards_of(checkpoint).specs)
    assert set(caught.value.problems) == wanted


def test_what_is_rightly_unused_is_listed(tmp_path: Path) -> None:
    rotary = "model.layers.0.self_attn.rotary_emb.inv_freq"
    config = small_config(tie_word_embeddings=True)
    head = torch.from_numpy(random_weights(config)["model.embed_tokens.weight"])
    checkpoint = write(tmp_path, config, **{rotary: torch.zeros(16), "lm_head.weight": head.clone()})
    assert sorted(load(checkpoint).unused) == ["lm_head.weight", rotary]


def test_untied_head_is_not_ignored(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, small_config(), **{"lm_head.weight": None})
    assert problems(checkpoint) == (f"{tmp_path}: lm_head.weight: wanted [307, 288], got: missing",)


def test_unsupported_gguf_format_is_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_gguf(tmp_path / "m.gguf", small_config(intermediate_size=96), qtype="Q8_1"))
    found = problems(checkpoint)
    assert len(found) == 16 and all(line.endswith("got Q8_1") for line in found)
    assert any("blk.0.ffn_down.weight" in line for line in found)


def test_missing_bias_under_the_familys_name(tmp_path: Path) -> None:
    config = small_config("qwen2")
    checkpoint = write(tmp_path, config, **{"model.layers.1.self_attn.k_proj.bias": None})
    assert problems(checkpoint) == (f"{tmp_path}: model.layers.1.self_attn.k_proj.bias: wanted [96], got: missing",)


def test_nan_and_infinity_are_counted(tmp_path: Path) -> None:
    weights = random_weights(small_config())
    q, norm = torch.from_numpy(weights[Q].copy()), torch.from_numpy(weights[NORM].copy())
    q[3, 5] = q[200, 0] = torch.nan
    q[7, 7] = torch.inf
    norm[1] = -torch.inf
    checkpoint = write(tmp_path, small_config(), **{Q: q, NORM: norm})
    file = tmp_path / "model.safetensors"
    assert set(problems(checkpoint)) == {
        f"{file}: {Q}: wanted finite values, got 2 NaN",
        f"{file}: {Q}: wanted finite values, got 1 infinite",
        f"{file}: {NORM}: wanted finite values, got 1 infinite",
    }
    loaded = load(checkpoint, check_finite=False)
    assert torch.isnan(plain(loaded.params["layers.0.attention.qkv.weight"])).sum() == 2


def test_each_rank_finds_what_is_in_its_slices(tmp_path: Path) -> None:
    down = torch.from_numpy(random_weights(small_config())[DOWN].copy())
    down[10, 150] = torch.nan
    checkpoint = write(tmp_path, small_config(), **{DOWN: down})
    assert load(checkpoint, rank=0, tp=2)
    assert len(problems(checkpoint, rank=1, tp=2)) == 1


def test_values_beyond_the_dtype(tmp_path: Path) -> None:
    q = torch.from_numpy(random_weights(small_config())[Q].copy())
    q[0, :3] = 1e5
    checkpoint = write(tmp_path, small_config(), **{Q: q})
    assert load(checkpoint, dtype=torch.bfloat16)
    (line,) = problems(checkpoint, dtype=torch.float16)
    assert line.endswith("wanted finite values, got 3 beyond the range of float16")


def test_a_sum_that_overflows_is_no_fault(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, small_config(), **{Q: torch.full((288, 288), 3e38)})
    assert plain(load(checkpoint).params["layers.0.attention.qkv.weight"]).max() == np.float32(3e38)


def test_nan_in_a_quantized_scale(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "m.gguf", small_config(), qtype="Q4_1")
    info = open_checkpoint(path).tensors["model.layers.0.mlp.up_proj.weight"]
    data = bytearray(path.read_bytes())
    data[info.offset + 20 : info.offset + 22] = np.float16("nan").tobytes()
    path.write_bytes(data)
    assert problems(open_checkpoint(path)) == (f"{path}: blk.0.ffn_up.weight: wanted finite values, got 32 NaN",)


@pytest.mark.parametrize("tp", [1, 2])
def test_a_file_cut_short_after_it_was_opened(tmp_path: Path, tp: int) -> None:
    checkpoint = write(tmp_path, small_config())
    file = tmp_path / "model.safetensors"
    names = sorted(checkpoint.tensors.values(), key=lambda tensor: tensor.offset)
    file.write_bytes(file.read_bytes()[: names[-2].offset + 4])
    (said,) = problems(checkpoint, rank=tp - 1, tp=tp)
    assert said.startswith(f"{file}: changed: {file.stat().st_size} bytes, ")
    found = problems(replace(checkpoint, states={}), rank=tp - 1, tp=tp)  # as if it was cut while it is read
    assert len(found) == 2
    for info, line in zip(sorted(names[-2:], key=lambda t: t.name), sorted(found), strict=True):
        assert f"{file}: {info.name}: truncated: wanted" in line


def test_a_file_that_went_away(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, small_config())
    (tmp_path / "model.safetensors").unlink()
    found = problems(checkpoint)
    assert len(found) == len(checkpoint.tensors)
    assert all("No such file or directory" in line for line in found)


def test_a_device_error_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write(tmp_path, small_config())

    def broken(fd: int, buffers: list[memoryview], at: int) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("weft.model.weights.reader.os.preadv", broken)
    assert all("Input/output error" in line for line in problems(checkpoint))


def test_nothing_is_read_when_the_table_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write(tmp_path, small_config(), **{DOWN: None})
    monkeypatch.setattr("weft.model.weights.reader.os.open", lambda *_: pytest.fail("opened"))
    problems(checkpoint)


def test_permuted_rows_are_undone_as_transformers_does(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "m.gguf", small_config())
    checkpoint = open_checkpoint(path)
    info = checkpoint.tensors[Q]
    with path.open("rb") as file:
        file.seek(info.offset)
        stored = np.frombuffer(file.read(info.nbytes), np.float32).reshape(info.shape)
    wanted = LlamaTensorProcessor({})._reverse_permute_weights(stored, 9)
    got = plain(load(checkpoint).params["layers.0.attention.qkv.weight"])[:288].numpy()
    assert np.array_equal(got, wanted) and not np.array_equal(got, stored)
