"""The memory plan: numbers that add up, refusals that say needed, available and what to change."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tiny_chat import CONFIG
from weft.base.errors import ConfigError
from weft.base.plural import size
from weft.base.settings import EngineConfig
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.memory import (
    ADDRESS_BYTES,
    MIB,
    PROCESS_BYTES,
    available_bytes,
    finish_plan,
    plan_memory,
    process_limit,
    rank_memories,
)

BIG = parse_config(
    {**CONFIG, "hidden_size": 2048, "num_hidden_layers": 16, "head_dim": 128, "max_position_embeddings": 32768}
)
UNEVEN = resolve({"attention.tp": 2, "attention.dp": 2, "attention.split": "groups", "dense.tp": 4})


def shards(**given: object) -> Shards:
    return Shards(BIG, resolve({name.replace("__", "."): value for name, value in given.items()}))


def test_every_rank_gets_the_blocks_of_the_one_with_least_room() -> None:
    plan = plan_memory(Shards(BIG, UNEVEN), EngineConfig(mem_fraction_static=0.5), 2, 16 * 1024 * MIB)
    share = 8 * 1024 * MIB // 4
    rooms = [(share - m.weights - m.workspace - PROCESS_BYTES) // m.block - 1 for m in plan.ranks]
    assert plan.num_blocks == min(rooms) < max(rooms)
    heads = [2, 1, 2, 1]
    assert [m.block for m in plan.ranks] == [2 * h * 128 * 16 * 2 * 16 for h in heads]
    assert [m.where for m in plan.ranks][3] == "rank 3 (dp 1, tp 1)"


@given(
    available=st.integers(0, 200_000 * MIB),
    fraction=st.floats(0.01, 1.0),
    length=st.one_of(st.none(), st.integers(2, 32768)),
    tp=st.sampled_from([1, 2, 3]),
)
def test_what_is_planned_fits(available: int, fraction: float, length: int | None, tp: int) -> None:
    engine = EngineConfig(mem_fraction_static=fraction, max_model_len=length)
    try:
        plan = plan_memory(shards(attention__tp=tp), engine, 2, available)
    except ConfigError as error:
        assert "available" in str(error) and "rank" in str(error)
        return
    used = sum(m.fixed + (plan.num_blocks + 1) * m.block for m in plan.ranks)
    assert used <= available * fraction
    assert plan.max_model_len == (length or min(32768, plan.num_blocks * 16))
    assert plan.max_model_len <= plan.num_blocks * 16


def test_a_given_cache_is_taken_as_it_is() -> None:
    plan = plan_memory(shards(), EngineConfig(kv_cache_memory=100 * MIB), 2, 10**12)
    assert plan.num_blocks == 100 * MIB // plan.ranks[0].block - 1


def test_without_a_word_the_cache_is_modest() -> None:
    plan = plan_memory(shards(), EngineConfig(max_model_len=1024), 2, 10**13)
    cache = plan.num_blocks * plan.ranks[0].block
    assert 1000 * MIB < cache <= 1024 * MIB
    few = plan_memory(shards(), EngineConfig(max_model_len=64, max_num_seqs=2), 2, 10**13)
    assert few.num_blocks == 2 * 4, "more than all running requests can fill would never be used"


def test_too_little_memory_says_needed_available_and_what_to_change() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_memory(shards(), EngineConfig(max_model_len=32768), 4, 2048 * MIB)
    said = str(caught.value)
    assert (
        said.startswith("rank 0 needs ") and "weights" in said and "KV cache 1.5 GiB (2048 blocks of 16 tokens)" in said
    )
    assert "available: 1.6 GiB per rank" in said and "raise --mem-fraction-static, lower --max-model-len" in said
    assert caught.value.field == "max_model_len" and caught.value.value == 32768


def test_a_cache_too_large_for_the_machine_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"kv_cache_memory 2.0 GiB: rank 0 \(tp 0\) needs .*; available: 1.5 GiB per rank"
    ):
        plan_memory(shards(attention__tp=2), EngineConfig(kv_cache_memory=2048 * MIB), 2, 3072 * MIB)


def test_a_cache_too_small_for_the_context_is_refused() -> None:
    engine = EngineConfig(kv_cache_memory=10 * MIB, max_model_len=4096)
    with pytest.raises(ConfigError, match="--kv-cache-memory 10.0 MiB holds .* raise --kv-cache-memory, lower"):
        plan_memory(shards(), engine, 2, 10**12)


def test_devices_tell_what_is_free_after_loading() -> None:
    memories = rank_memories(shards(), EngineConfig(), 2, None)
    assert memories[0].share is None and memories[0].process == 0
    weights = memories[0].weights
    for fraction in (0.9, 0.5):
        plan = finish_plan(memories, shards(), EngineConfig(mem_fraction_static=fraction), 10**9, (10**9,))
        room = int((10**9 + weights) * fraction) - weights - memories[0].workspace
        assert plan.num_blocks == room // memories[0].block - 1


def test_a_control_group_may_leave_less_than_is_free(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:   5000000 kB\nHugePages_Total: 0\n")
    found = [available_bytes(meminfo, group) for group in (None, 6_000_000_000, 1_000, -5)]
    assert found == [5_000_000 * 1024, 5_000_000 * 1024, 1_000, 0]


def test_a_limit_of_addresses_counts_like_less_memory() -> None:
    free, engine = 10**12, EngineConfig(max_model_len=1024)
    two = shards(attention__tp=2)
    limited = plan_memory(two, engine, 2, free, process_limit=4096 * MIB)
    assert limited == plan_memory(two, engine, 2, 2 * 4096 * MIB)
    assert all(m.fixed + (limited.num_blocks + 1) * m.block <= 4096 * MIB for m in limited.ranks)
    assert plan_memory(two, engine, 2, 2**33, process_limit=2**40) == plan_memory(two, engine, 2, 2**33)


def test_too_low_a_limit_of_addresses_is_named() -> None:
    for engine in (EngineConfig(max_model_len=1024), EngineConfig(kv_cache_memory=100 * MIB)):
        with pytest.raises(
            ConfigError, match=r"^the limit of addresses \(ulimit -v \d+\) leaves .*: raise it; .*available: "
        ):
            plan_memory(shards(), engine, 2, 10**12, process_limit=300 * MIB)


def test_the_limit_of_this_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ADDRESS_BYTES - PROCESS_BYTES
    for limit, left in ((resource.RLIM_INFINITY, None), (whole + 5, 5), (1, 0)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        assert process_limit() == left


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (MIB, "1.0 MiB"), (3 * 2**40, "3072.0 GiB")]
)
def test_sizes_in_words(count: int, text: str) -> None:
    assert size(count) == text
