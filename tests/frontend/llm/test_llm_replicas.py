"""weft.LLM over two replicas: the same answers as one rank, from both; stops, faults, ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import weft
from tests.support.tiny_chat import write_tiny_chat
from weft import LLM, SamplingParams
from weft.base.errors import PeerError, RequestError
from weft.base.step.plan import StepPlan
from weft.cli.main import main
from weft.parallel.experts.files.sources import read_loads
from weft.runtime.ipc.phases import Phase, PhaseChange
from weft.runtime.supervisor.executor import ProcessExecutor

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("llm") / "tiny")


@pytest.fixture(scope="module")
def two(model: Path) -> Iterator[LLM]:
    with weft.LLM(model, layout={"replicas": 2}, block_size=8, max_num_seqs=4) as llm:
        yield llm


def finished(llm: LLM) -> list[int]:
    """Outputs that have ended, by replica."""
    return [engine.stats().total.finished for engine in llm._engines._engines]


def test_prompts_are_dealt_and_answered_as_by_one_rank(model: Path, two: LLM) -> None:
    prompts = [f"prompt {number % 7}" for number in range(30)]
    before = finished(two)
    found = two.generate(prompts, GREEDY)
    dealt = [now - then for now, then in zip(finished(two), before, strict=True)]
    assert sum(dealt) == 30 and min(dealt) >= 10
    assert two.plan.layout.replicas == 2 and two.plan.engine.max_model_len == 256
    with weft.LLM(model) as alone:
        wanted = alone.generate(prompts, GREEDY)
        assert [one.outputs for one in found] == [one.outputs for one in wanted]
        seeded = SamplingParams(temperature=1.0, seed=7, max_tokens=12, ignore_eos=True)
        there = two.generate(["x"] * 6, seeded)
        assert [one.outputs for one in there] == [one.outputs for one in alone.generate(["x"] * 6, seeded)]


def test_answers_without_a_seed_differ_between_replicas(two: LLM) -> None:
    """Two engines that count from the same seed would give the same sample twice."""
    found = two.generate(["x"] * 2, SamplingParams(temperature=1.0, max_tokens=12, ignore_eos=True))
    assert found[0].outputs[0].token_ids != found[1].outputs[0].token_ids


def test_experts_move_in_each_replica_by_its_own_loads(
    model: Path, two: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are planned ahead."""
    submit, waiting = ProcessExecutor.submit, list[int]()

    def submit_noted(self: ProcessExecutor, plan: StepPlan) -> None:
        waiting.append(len(self._waiting))
        submit(self, plan)

    monkeypatch.setattr(ProcessExecutor, "submit", submit_noted)
    mixture, stats = tmp_path / "mixture", tmp_path / "stats.json"
    words = ["--experts", "8", "--top-k", "2", "--skew", "zipf:1.2", "--dtype", "float32", "--out", str(mixture)]
    assert main(["upcycle", str(model), *words]) == 0
    layout = {"replicas": 2, "attention.dp": 2, "experts.ep": 2, "experts.slots": 10}
    balance = {"experts.balance.policy": "auto", "experts.balance.interval": 5}
    prompts = [f"Tell me about number {number}" for number in range(12)]
    with weft.LLM(mixture, layout=layout | balance, eplb_threshold=1.0, expert_stats=str(stats)) as llm:
        found = llm.generate(prompts, GREEDY)
        assert [one.outputs[0].token_ids for one in found] == [
            one.outputs[0].token_ids for one in two.generate(prompts, GREEDY)
        ]
        reports = [engine.stats().experts for engine in llm._engines._engines]
        assert all(one is not None and one.decisions >= 1 and one.failures == 0 for one in reports)
    assert max(waiting) == 1
    loads = [read_loads(path) for path in (stats, tmp_path / "stats-replica1.json")]
    # prompts but for what prefixes saved, and answers, in the last layer answers alone: 2 experts a row
    assert all(load.sum(axis=1)[0] > load.sum(axis=1)[1] >= 2 * 4 * 11 for load in loads)
    assert (loads[0] != loads[1]).any()


def test_stop_strings_end_outputs_on_both(two: LLM) -> None:
    text = two.generate("stop me", GREEDY)[0].outputs[0].text
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, stop=(text[4:6],))
    for result in two.generate(["stop me"] * 4, params):
        assert result.outputs[0].finish_reason == "stop" and text[4:6] not in result.outputs[0].text


def test_a_stream_that_is_left_frees_both(two: LLM) -> None:
    next(two.stream("left alone", SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True)))
    assert [one.outputs[0].finish_reason for one in two.generate(["ab"] * 4, GREEDY)] == ["length"] * 4
    assert all(engine.stats().total.blocks_used == 0 for engine in two._engines._engines)


def test_a_request_that_cannot_run_leaves_the_others_runnable(two: LLM) -> None:
    with pytest.raises(RequestError, match="max_model_len"):
        two.generate([[1] * 10, [1] * 300], GREEDY)
    assert len(two.generate(["ab"] * 2, GREEDY)) == 2


def test_a_dead_rank_of_any_replica_ends_the_call_and_all_ranks(model: Path) -> None:
    llm = weft.LLM(model, layout={"replicas": 2})
    pids = [worker.pid for executor in llm._engines._executors for worker in executor.workers]
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(PeerError, match=r"rank 1 \(replica 1\) pid \d+ was killed by SIGKILL"):
        llm.generate(["ab"] * 4, GREEDY)
    llm.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_replica_that_cannot_start_leaves_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_TEST_FAULTS", "1")
    monkeypatch.setenv("WEFT_FAULT", "load:1:1:kill")
    seen: dict[int, int] = {}

    def note(change: PhaseChange) -> None:
        if change.phase is Phase.SPAWN:
            seen[change.rank] = int(change.detail.split()[1].rstrip(","))

    with pytest.raises(PeerError, match=r"rank 1 \(replica 1\) pid \d+ was killed by SIGKILL in phase load"):
        weft.LLM(model, layout={"replicas": 2}, listener=note)
    assert set(seen) == {0, 1}
    for pid in seen.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
