"""Slices of every format, family and layout against whole tensors; bytes read against the bytes of the slices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.checkpoints import (
    gguf_weights,
    make_checkpoint,
    make_gguf,
    random_weights,
    small_config,
    smollm2,
)
from weft.compute.ops.weights import plain
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.checkpoint.formats import LOADABLE
from weft.model.weights import reader
from weft.model.weights.loader import LoadedParams, load_params
from weft.parallel.arch import Cut, ParamSpec, Shards, parse_config
from weft.parallel.layout.resolve import resolve

Weights = dict[str, np.ndarray[Any, Any]]
MIXED = {"attention.tp": 2, "attention.dp": 2, "o_proj.tp": 4, "dense.tp": 1, "embedding.tp": 4, "lm_head.tp": 2}
LAYOUTS: list[dict[str, Any]] = [
    *({"attention.tp": tp} for tp in (1, 2, 3, 4, 5)),
    {"attention.tp": 2, "attention.split": "balanced"},
    {"attention.tp": 4, "attention.split": "balanced"},
    MIXED,
    {"attention.tp": 3, "attention.dp": 2, "o_proj.tp": 2, "dense.tp": 6, "lm_head.tp": 3, "embedding.tp": 1},
    {"attention.tp": 1, "attention.dp": 4, "o_proj.tp": 4, "dense.tp": 2, "embedding.tp": 2, "lm_head.tp": 4},
]
QUANT: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "head_dim": 256,
    "num_attention_heads": 3,
    "vocab_size": 67,
}
"""Sizes whose rows are whole 256-blocks, in one or three of them."""


def shards_of(checkpoint: Checkpoint, given: dict[str, Any]) -> Shards:
    return Shards(parse_config(checkpoint.config), resolve(given))


def slices(shards: Shards, rank: int, weights: Weights) -> Iterator[tuple[ParamSpec, np.ndarray[Any, Any]]]:
    """What `rank` must hold of every tensor, cut from the whole ones."""
    for spec in (spec for spec in shards.specs if spec.name in weights):
        whole, interval = weights[spec.name], shards.interval(spec, rank)
        if interval is not None and spec.dim is not None:
            whole = whole.take(range(*interval), axis=spec.dim)
        yield spec, whole


def assert_holds(loaded: LoadedParams, shards: Shards, rank: int, weights: Weights, dtype: torch.dtype) -> None:
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    for spec, values in slices(shards, rank, weights):
        parts.setdefault(spec.target, []).append((spec.part, torch.from_numpy(np.array(values)).to(dtype)))
    assert set(loaded.params) == set(parts)
    for target, tensors in parts.items():
        wanted = torch.cat([tensor for _, tensor in sorted(tensors, key=lambda part: part[0])])
        got = plain(loaded.params[target])
        assert got.dtype == dtype
        assert torch.equal(got, wanted), target


def slice_bytes(checkpoint: Checkpoint, shards: Shards, rank: int) -> float:
    """Bytes of the slices `rank` holds, in the file's format, not widened to blocks."""
    total = 0.0
    for spec in shards.specs:
        if not shards.is_view(spec):
            fmt = LOADABLE[checkpoint.tensors[spec.name].dtype]
            total += prod(shards.local_shape(spec, rank)) * fmt.nbytes / fmt.block
    return total


@pytest.mark.parametrize("given", LAYOUTS, ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_safetensors_slices(tmp_path: Path, family: str, given: dict[str, Any]) -> None:
    config = small_config(family, tie_word_embeddings=family == "qwen3")
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, config, shards=2))
    weights, shards = random_weights(config), shards_of(checkpoint, given)
    for rank in range(shards.layout.world):
        loaded = load_params(checkpoint, shards.specs, shards, rank, torch.float32)
        assert_holds(loaded, shards, rank, weights, torch.float32)
        assert loaded.bytes_read == slice_bytes(checkpoint, shards, rank)
        assert loaded.unused == ()


@pytest.mark.parametrize("given", LAYOUTS, ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_gguf_slices_are_the_safetensors_slices(tmp_path: Path, family: str, given: dict[str, Any]) -> None:
    config = small_config(family, attention_bias=family == "llama", mlp_bias=family == "llama")
    checkpoint = open_checkpoint(make_gguf(tmp_path / "m.gguf", config))
    weights, shards = random_weights(config), shards_of(checkpoint, given)
    for rank in range(shards.layout.world):
        loaded = load_params(checkpoint, shards.specs, shards, rank, torch.float32)
        assert_holds(loaded, shards, rank, weights, torch.float32)
        assert loaded.bytes_read == slice_bytes(checkpoint, shards, rank)


@pytest.mark.parametrize("qtype", sorted(LOADABLE.keys() - {"F64"}))
@pytest.mark.parametrize("tp", [1, 2, 3])
def test_every_gguf_format(tmp_path: Path, qtype: str, tp: int) -> None:
    config = small_config(**QUANT)
    path = make_gguf(tmp_path / "m.gguf", config, qtype=qtype)
    checkpoint = open_checkpoint(path)
    weights, shards = gguf_weights(path, config), shards_of(checkpoint, {"attention.tp": tp, "o_proj.tp": 1})
    for rank in range(tp):
        loaded = load_params(checkpoint, shards.specs, shards, rank, torch.float32)
        assert_holds(loaded, shards, rank, weights, torch.float32)


@pytest.mark.parametrize("qtype", ["Q4_1", "Q6_K"])
def test_columns_inside_a_block(tmp_path: Path, qtype: str) -> None:
    """768 columns over 4 and 6 ranks: 192 and 128 columns cut 256-blocks; o_proj's columns come from 3 heads of 256."""
    config = small_config(**QUANT)
    path = make_gguf(tmp_path / "m.gguf", config, qtype=qtype)
    checkpoint, weights = open_checkpoint(path), gguf_weights(path, config)
    for tp, world in ((2, 4), (3, 6)):
        given = {"attention.tp": tp, "attention.dp": 2, "dense.tp": world, "o_proj.tp": world}
        shards = shards_of(checkpoint, given)
        for rank in range(shards.layout.world):
            loaded = load_params(checkpoint, shards.specs, shards, rank, torch.float32)
            assert_holds(loaded, shards, rank, weights, torch.float32)
            assert loaded.bytes_read >= slice_bytes(checkpoint, shards, rank)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", ["float64", "float32", "bfloat16", "float16"])
def test_dtypes(tmp_path: Path, stored: str, dtype: torch.dtype) -> None:
    config = small_config()
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, config, dtype=stored))
    shards = shards_of(checkpoint, {"attention.tp": 2})
    weights = random_weights(config)
    loaded = load_params(checkpoint, shards.specs, shards, 1, dtype)
    for spec, values in slices(shards, 1, weights):
        if spec.part == 0 and spec.target.startswith("layers.1.o_proj"):
            wanted = torch.from_numpy(np.array(values)).to(getattr(torch, stored)).to(dtype)
            assert torch.equal(plain(loaded.params[spec.target]), wanted)


@pytest.mark.parametrize("piece", [1, 10_000])
def test_pieces_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(reader, "PIECE", piece)
    config = small_config()
    for checkpoint in (
        open_checkpoint(make_checkpoint(tmp_path, config)),
        open_checkpoint(make_gguf(tmp_path / "m.gguf", config)),
    ):
        shards = shards_of(checkpoint, {"attention.tp": 2})
        for rank in range(2):
            loaded = load_params(checkpoint, shards.specs, shards, rank, torch.float32)
            assert_holds(loaded, shards, rank, random_weights(config), torch.float32)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 2), (2, 1), (1, 1)])
def test_tied_embedding_is_one_memory_where_shards_say_so(tmp_path: Path, sizes: tuple[int, int]) -> None:
    config = small_config(tie_word_embeddings=True)
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, config))
    shards = shards_of(checkpoint, {"attention.tp": 2, "embedding.tp": sizes[0], "lm_head.tp": sizes[1]})
    for rank in range(2):
        loaded = load_params(checkpoint, shards.specs, shards, rank, torch.float32)
        assert_holds(loaded, shards, rank, random_weights(config), torch.float32)
        embedding, head = (plain(loaded.params[name]) for name in ("embedding.weight", "lm_head.weight"))
        shared = embedding.untyped_storage().data_ptr() == head.untyped_storage().data_ptr()
        assert shared == shards.tied_view == (sizes != (2, 1))
        assert loaded.bytes_read == slice_bytes(checkpoint, shards, rank)


@pytest.mark.parametrize(
    "given",
    [
        *({"attention.tp": tp} for tp in (1, 2, 3, 4)),
        {"attention.tp": 2, "attention.split": "balanced"},
        {"attention.tp": 2, "attention.dp": 2, "dense.tp": 4, "embedding.tp": 4, "lm_head.tp": 1},
        {"attention.tp": 3, "attention.dp": 2, "o_proj.tp": 2, "dense.tp": 6, "embedding.tp": 1, "lm_head.tp": 3},
    ],
    ids=str,
)
def test_smollm2_reads_within_five_percent_of_its_slices(given: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(smollm2())
    shards = shards_of(checkpoint, given)
    world = shards.layout.world
    for rank in range(world) if world < 3 else (0, world - 1):
        loaded = load_params(checkpoint, shards.specs, shards, rank, torch.bfloat16)
        wanted = slice_bytes(checkpoint, shards, rank)
        assert wanted <= loaded.bytes_read <= 1.05 * wanted


def test_smollm2_is_what_the_package_reads() -> None:
    checkpoint = open_checkpoint(smollm2())
    shards = shards_of(checkpoint, {"attention.tp": 2})
    some = [spec for spec in shards.specs if "layers." not in spec.name or ".17." in spec.name]
    weights = gguf_weights(smollm2(), checkpoint.config, {spec.name for spec in some})
    params = load_params(checkpoint, shards.specs, shards, 1, torch.bfloat16).params
    kept = {spec.target: params[spec.target] for spec in some}
    assert_holds(LoadedParams(kept, 0, ()), shards, 1, weights, torch.bfloat16)


def test_bytes_counted_are_bytes_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count against what preadv itself returned."""
    checkpoint = open_checkpoint(make_gguf(tmp_path / "m.gguf", small_config(**QUANT), qtype="Q4_K"))
    shards, seen = shards_of(checkpoint, {"attention.tp": 3, "attention.dp": 2, "o_proj.tp": 6, "dense.tp": 6}), [0]
    preadv = os.preadv

    def counting(fd: int, buffers: list[memoryview], offset: int) -> int:
        got = preadv(fd, buffers, offset)
        seen[0] += got
        return int(got)

    monkeypatch.setattr("weft.model.weights.reader.os.preadv", counting)
    loaded = load_params(checkpoint, shards.specs, shards, 4, torch.float32)
    assert loaded.bytes_read == seen[0] > 0


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may give less than asked for."""
    config = small_config()
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, config))
    shards, preadv = shards_of(checkpoint, {"attention.tp": 1}), os.preadv
    monkeypatch.setattr(
        "weft.model.weights.reader.os.preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:1000]], at)
    )
    loaded = load_params(checkpoint, shards.specs, shards, 0, torch.float32)
    assert_holds(loaded, shards, 0, random_weights(config), torch.float32)


def test_the_number_of_threads_is_given_back(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, small_config()))
    shards, before = shards_of(checkpoint, {"attention.tp": 1}), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        load_params(checkpoint, shards.specs, shards, 0, torch.float32)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_files_are_closed(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, small_config(), shards=3))
    shards = shards_of(checkpoint, {"attention.tp": 1})
    load_params(checkpoint, shards.specs, shards, 0, torch.float32)
    opened = [str(path.resolve()) for path in Path("/proc/self/fd").iterdir()]
    assert opened and not [path for path in opened if path.startswith(str(tmp_path.resolve()))]


def test_a_table_from_another_process_is_enough(tmp_path: Path) -> None:
    config = small_config()
    checkpoint = Checkpoint.from_table(open_checkpoint(make_checkpoint(tmp_path, config)).table())
    shards = shards_of(checkpoint, {"attention.tp": 2})
    loaded = load_params(checkpoint, shards.specs, shards, 1, torch.float32)
    assert_holds(loaded, shards, 1, random_weights(config), torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_onto_a_gpu(tmp_path: Path) -> None:
    config = small_config(tie_word_embeddings=True)
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, config))
    shards = shards_of(checkpoint, {"attention.tp": 1})
    loaded = load_params(checkpoint, shards.specs, shards, 0, torch.float32, "cuda")
    there = {name: plain(tensor) for name, tensor in loaded.params.items()}
    assert all(tensor.is_cuda for tensor in there.values())
    assert_holds(
        LoadedParams({name: tensor.cpu() for name, tensor in there.items()}, 0, ()),
        shards,
        0,
        random_weights(config),
        torch.float32,
    )


@pytest.mark.parametrize("tp", [2, 3, 4])
def test_intermediate_cuts_keep_to_the_formats_blocks(tmp_path: Path, tp: int) -> None:
    config = small_config("llama", intermediate_size=32 * 7)
    path = make_gguf(tmp_path / "m.gguf", config, qtype="Q4_0")
    checkpoint = open_checkpoint(path)
    shards = Shards(parse_config(checkpoint.config), resolve({"dense.tp": tp}, tp))
    cuts = shards.cuts[Cut.INTERMEDIATE]
    assert [lo % 32 for lo, _ in cuts] == [0] * tp and cuts[-1][1] == 32 * 7
    assert max(hi - lo for lo, hi in cuts) - min(hi - lo for lo, hi in cuts) <= 32
