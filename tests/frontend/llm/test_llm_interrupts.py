"""weft.LLM and Ctrl-C, at any moment of a step: what is not whole is dropped, and the next call is answered as ever."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import weft
from tests.support.tiny_chat import write_tiny_chat
from weft import LLM, SamplingParams
from weft.base.errors import ConfigError, PeerError, UsageError
from weft.runtime.supervisor.executor import ProcessExecutor

LONG = SamplingParams(temperature=0.0, max_tokens=100, ignore_eos=True)
SHORT = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPTS = ["ab", "the other one", "x"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("llm") / "tiny")


@pytest.fixture(scope="module", params=[{}, {"tp": 2}, {"layout": {"replicas": 2}}], ids=str)
def llm(model: Path, request: pytest.FixtureRequest) -> Iterator[LLM]:
    with weft.LLM(model, **request.param) as one:
        yield one


def ids(llm: LLM) -> list[list[int]]:
    return [result.outputs[0].token_ids for result in llm.generate(PROMPTS, SHORT)]


def interrupted(monkeypatch: pytest.MonkeyPatch, name: str, calls: int, times: int = 1) -> None:
    """Ctrl-C comes, `times` at once, after the `calls`-th call of the executor's method."""
    method: Callable[..., Any] = getattr(ProcessExecutor, name)
    left = [calls]

    def call(self: ProcessExecutor, *words: Any) -> Any:
        found = method(self, *words)
        left[0] -= 1
        if not left[0]:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(ProcessExecutor, name, call)


@pytest.mark.parametrize("name", ["submit", "collect"])
@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_next_call_is_answered_as_ever(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, name: str, calls: int, streamed: bool
) -> None:
    before = ids(llm)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted(patched, name, calls)
        list(llm.stream("the long one", LONG)) if streamed else llm.generate([*PROMPTS, "the long one"], LONG)
        list(llm.stream("another", LONG))
    assert ids(llm) == before
    assert all(not engine.has_work for engine in llm._engines._engines)


def test_ctrl_c_between_tokens_of_a_stream(llm: LLM) -> None:
    before = ids(llm)
    with pytest.raises(KeyboardInterrupt):
        for _ in llm.stream("the long one", LONG):
            signal.raise_signal(signal.SIGINT)
    assert ids(llm) == before


@pytest.mark.parametrize("streamed", [False, True])
def test_whoever_insists_ends_the_llm_and_hears_so(
    model: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    with weft.LLM(model) as doomed:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            interrupted(patched, "submit", 1, times=2)
            list(doomed.stream("ab", LONG)) if streamed else doomed.generate("ab", LONG)
        for _ in range(2):
            with pytest.raises(PeerError, match="the engine has stopped: KeyboardInterrupt in the middle of a step"):
                doomed.generate("ab", SHORT)
    with pytest.raises(PeerError, match="KeyboardInterrupt"):
        doomed.generate("ab", SHORT)


def test_a_closed_llm_says_so(model: Path) -> None:
    with weft.LLM(model) as closed:
        pass
    for _ in range(2):
        with pytest.raises(UsageError, match="this LLM is closed: make another one"):
            closed.generate("ab", SHORT)
        with pytest.raises(UsageError, match="this LLM is closed"):
            next(closed.stream("ab", SHORT))


def test_a_config_of_another_kind_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="config 3: an EngineConfig is needed"):
        weft.LLM(model, config=3)  # type: ignore[arg-type]
