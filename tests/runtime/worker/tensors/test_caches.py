"""Where a rank's cache lies: no two numbers in one place, all layers of a block together, zeros."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import torch

from tests.support.exact_model import exact_config
from weft.base.errors import ConfigError
from weft.compute.ops import make_ops
from weft.compute.ops.base import Numerics
from weft.parallel.arch.families import parse_config
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.tensors.caches import CacheMemory, allocate_caches

BLOCKS, SIZE = 5, 16
FORMS: dict[str, dict[str, Any]] = {
    "tied": {},
    "odd": {"head_dim": 6, "num_hidden_layers": 3},
    "latent": {},
}


def allocated(form: str, dtype: torch.dtype, rank: int = 0, tp: int = 1) -> CacheMemory:
    config = parse_config({**exact_config("latent" if form == "latent" else "tied"), **FORMS[form]})
    shards = Shards(config, resolve({}, tp=tp, num_experts=config.num_experts))
    cpu = torch.device("cpu")
    return allocate_caches(shards, rank, make_ops(Numerics(dtype), cpu), BLOCKS, SIZE, cpu)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_number_has_a_place_of_its_own(form: str, dtype: torch.dtype) -> None:
    made = allocated(form, dtype)
    parts = [part for cache in made.caches for part in (cache.k, cache.v)][:: 2 if form == "latent" else 1]
    assert all(part.shape[0] == BLOCKS + 1 and part.shape[2] == SIZE and not part.any() for part in parts)
    for number, part in enumerate(parts, 1):
        part.fill_(number)
    assert all((part == number).all() for number, part in enumerate(parts, 1))
    if form == "latent":
        assert all(cache.k.data_ptr() == cache.v.data_ptr() for cache in made.caches)


@pytest.mark.parametrize("form", FORMS)
def test_a_block_of_all_layers_is_one_stretch(form: str) -> None:
    made = allocated(form, torch.bfloat16)
    assert made.memory is not None and len(made.memory) == (BLOCKS + 1) * made.block_bytes
    for cache in made.caches:
        cache.k[3], cache.v[3] = 1, 1
    written = made.memory.nonzero()
    assert 3 * made.block_bytes <= int(written.min()) and int(written.max()) < 4 * made.block_bytes
    assert all(cache.k.data_ptr() % 64 == 0 for cache in made.caches)


def test_a_rank_has_room_for_its_own_heads() -> None:
    whole, third = allocated("tied", torch.bfloat16), allocated("tied", torch.bfloat16, rank=1, tp=3)
    assert whole.caches[0].k.shape[1] == 3 * third.caches[0].k.shape[1]
    assert third.block_bytes < whole.block_bytes


def test_a_cache_that_the_system_refuses_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("weft.compute.ops.native.large_pages.mmap.mmap", refused)
    words = r"KV cache of 5 blocks: the system refuses .* MiB: Cannot allocate memory; .*or give a smaller --kv-cache-m"
    with pytest.raises(ConfigError, match=words) as found:
        allocated("tied", torch.bfloat16)
    assert found.value.field == "kv_cache_memory"
