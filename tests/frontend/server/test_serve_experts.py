"""`weft serve --eplb` as a person types it: the dense model's answers while experts move and ranks die."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.frontend.server.test_serve_command import Served, serving
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import alive, until
from weft.base.step.sampling_params import SamplingParams
from weft.cli.main import main
from weft.frontend.llm import LLM
from weft.parallel.experts.files.sources import read_loads

PROMPTS = [f"Tell me about number {number}, please: " for number in range(6)]
TOKENS = 24
"""A round of answers has two or three intervals of steps: on a machine with much else to do every step takes long."""
LONG_S = 240.0
"""More patience than elsewhere: these tests are many steps of two ranks, which others may keep from meeting."""
LAYOUT = ("--attn-dp-size", "2", "--moe-ep-size", "2", "--expert-slots", "10", "--eplb")
SHOWN = ("--served-model-name", "m", "--log-level", "debug")
FAST = ("--expert-balance-interval", "20", "--eplb-threshold", "1", "--eplb-bytes-per-step", "16KiB")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("dense") / "tiny")


@pytest.fixture(scope="module")
def mixture(dense: Path) -> Path:
    out = dense.parent / "mixture"
    words = ["--experts", "8", "--top-k", "2", "--skew", "zipf:1.2", "--dtype", "float32", "--out", str(out)]
    assert main(["upcycle", str(dense), *words]) == 0
    return out


@pytest.fixture(scope="module")
def wanted(dense: Path) -> list[str]:
    with LLM(str(dense)) as llm:
        params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
        return [result.outputs[0].text for result in llm.generate(PROMPTS, params)]


def streamed(url: str, prompt: str) -> str:
    """The text of a stream that ended well."""
    body = {"model": "m", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=240) as reply:
        assert reply.status_code == 200, reply.read()
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events[-1]
    return "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])


def answers(url: str) -> list[str]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda prompt: streamed(url, prompt), PROMPTS))


def planned(served: Served) -> bool:
    """Whether no process plans a placement: it gives way to ranks, so between two rounds it is waited for."""

    def plans(pid: int) -> bool:
        try:
            return (
                alive(pid)
                and b"weft.parallel.experts.balancing.eplb_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
            )
        except OSError:  # it has just ended
            return False

    return not any(map(plans, served.children()))


def rounds_until_switched(served: Served, wanted: list[str]) -> int:
    """Asks again, for right answers, until a layer has a new placement."""
    rounds = 0

    def switched() -> bool:
        nonlocal rounds
        rounds += 1
        assert answers(served.url) == wanted
        until(lambda: planned(served), "a plan is not done", LONG_S)
        return metrics(served.url)["layers_switched"] >= 1

    until(switched, "no layer has a new placement", LONG_S)
    return rounds


def metrics(url: str) -> dict[str, float]:
    """What the engine counts; asked again where a long step kept it from answering."""
    found: dict[str, float] = {}

    def counted() -> bool:
        page = httpx.get(f"{url}/metrics", timeout=240).text
        lines = re.findall(r"^weft:expert_(\S+?)(?:_total)?\{.*\} (\S+)$", page, re.M)
        found.update((name, float(value)) for name, value in lines)
        return bool(found)

    until(counted, "no counters")
    return found


@contextmanager
def balanced(model: Path, *words: str) -> Iterator[Served]:
    with serving(str(model), *LAYOUT, *FAST, *SHOWN, *words) as served:
        yield served


def test_answers_are_the_dense_models_while_experts_move(mixture: Path, wanted: list[str], tmp_path: Path) -> None:
    stats = tmp_path / "stats.json"
    with balanced(mixture, "--expert-stats", str(stats)) as served:
        assert "balancing of experts: global, every 20 steps" in served.text
        rounds = rounds_until_switched(served, wanted)
        found = metrics(served.url)
        assert found["slots_moved"] >= found["layers_switched"]
        on_their_way = found["bytes_moved"] - found["slots_moved"] * 3 * 48 * 80 * 4
        assert on_their_way >= 0 if found["layers_moving"] else on_their_way == 0
        assert found["rebalances"] >= 1 and found["rebalances_failed"] == 0
        assert 0 < found["balance"] <= 1 and found["window_size"] == 20
        served.process.terminate()
        assert served.end() == 0, served.text
    loads = read_loads(stats)
    document = json.loads(stats.read_text())
    assert loads.shape == (2, 8) and document["steps"] >= 40
    # every row of every step chose two experts: prompts once, or again where nothing was cached, and answers; in the
    # last layer answers alone
    assert loads.sum(axis=1)[0] > loads.sum(axis=1)[1] >= rounds * 2 * len(PROMPTS) * (TOKENS - 1)
    assert main(["experts", "show", str(stats)]) == 0
    assert main(["experts", "balance", str(stats), "--slots", "10", "--ranks", "2"]) == 0


@pytest.mark.parametrize("fault", ["move:1:3:kill", pytest.param("switch:0:1:raise", marks=pytest.mark.long)])
def test_a_rank_that_dies_while_experts_move(
    fault: str, mixture: Path, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was running is reported, the server begins again with the placement in force, and answers are right."""
    monkeypatch.setenv("WEFT_TEST_FAULTS", "1")
    monkeypatch.setenv("WEFT_FAULT", fault)
    with balanced(mixture) as served:
        until(lambda: None in attempts(served, wanted), "nobody noticed", LONG_S)
        until(lambda: ready(served.url), served.text, LONG_S)
        rounds_until_switched(served, wanted)
        assert metrics(served.url)["rebalances"] >= 2
        assert httpx.get(f"{served.url}/ready", timeout=240).json()["restarts"] == 1


def attempts(served: Served, wanted: list[str]) -> list[str | None]:
    """Answers, which are right or None."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: attempt(served.url, prompt), PROMPTS))
    assert all(text in (None, right) for text, right in zip(found, wanted, strict=True))
    until(lambda: planned(served), "a plan is not done", LONG_S)
    return found


def attempt(url: str, prompt: str) -> str | None:
    """None: the stream ended with an error."""
    try:
        return streamed(url, prompt)
    except (AssertionError, httpx.HTTPError):
        return None


def ready(url: str) -> bool:
    return httpx.get(f"{url}/ready", timeout=240).status_code == 200


def test_a_placement_to_begin_with(mixture: Path, wanted: list[str], tmp_path: Path) -> None:
    """TensorRT-LLM's file; every slot that differs from the plain order is loaded as it says."""
    file = tmp_path / "start.yaml"
    rows = [[7, 6, 5, 4, 3, 2, 1, 0, 7, 6], [0, 0, 1, 2, 3, 4, 5, 6, 7, 7]]
    lines = "".join(f"  {layer}: {row}\n" for layer, row in enumerate(rows))
    file.write_text(f"num_slots: 10\nlayer_updates_per_iter: 0\ninitial_global_assignments:\n{lines}")
    plain = LAYOUT[:-1]
    with serving(str(mixture), *plain, *SHOWN, "--expert-placement", str(file)) as served:
        assert f"as {file} says" in served.text
        assert answers(served.url) == wanted
