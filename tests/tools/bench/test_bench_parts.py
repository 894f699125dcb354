"""Parts of the benchmark: events, percentiles, outcomes, workloads, settings, comparison, commands without secrets."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tiny_chat import CONFIG, write_tiny_chat
from weft.base.errors import ConfigError
from weft.engine.text import Tokenizer
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import parse_config
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.resolve import resolve
from weft.tools.bench.client import take
from weft.tools.bench.compare import Measured, change, differences, interleaved, measured, memory_of
from weft.tools.bench.drive import arrivals
from weft.tools.bench.events import EventReader
from weft.tools.bench.machine import commit, machine, processor, shown_command, versions
from weft.tools.bench.outcome import Outcome
from weft.tools.bench.plot import check_plot
from weft.tools.bench.probe import base_url
from weft.tools.bench.settings import BenchSettings, OfferedLoad
from weft.tools.bench.stats import percentile, spread
from weft.tools.bench.workload import Workload

EVENTS = b"data: {}\n\n: comment\n\nevent: x\ndata: a\ndata:b\n\ndata: [DONE]\n\n"
DATA = [b"{}", b"a\nb", b"[DONE]"]


@given(st.lists(st.integers(0, len(EVENTS)), max_size=12), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_events_arrive_in_any_pieces(cuts: list[int], newline: bytes) -> None:
    stream = EVENTS.replace(b"\n", newline)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = EventReader()
    found = [data for a, b in itertools.pairwise(edges) for data in reader.feed(stream[a:b])]
    found += reader.feed(b"\n") if newline == b"\r" else []  # the last CR waits for an LF that may follow
    assert found == DATA
    assert reader.rest.strip() == b""


def test_an_event_without_its_end_is_not_told() -> None:
    reader = EventReader()
    assert reader.feed(b"data: [DONE]\n") == [] and reader.rest == b"data: [DONE]\n"


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], share: float) -> None:
    assert percentile(sorted(values), share) == pytest.approx(np.percentile(values, share), rel=1e-9, abs=1e-6)


def test_a_spread_is_in_milliseconds_and_skips_what_is_missing() -> None:
    found = spread([0.002, None, 0.004])
    assert (found.count, found.mean, found.p50, found.low, found.high) == (2, 3.0, 3.0, 2.0, 4.0)
    assert spread([None]).document() == dict.fromkeys(("mean", "p50", "p90", "p99", "min", "max")) | {"count": 0}


def chunk(text: str = "", finish: str | None = None, **more: object) -> bytes:
    return json.dumps({"choices": [{"text": text, "finish_reason": finish}], **more}).encode()


def test_times_of_an_answer() -> None:
    """First text at 1.5, last token at 2.5: four tokens, three steps."""
    outcome = Outcome(asked=4, sent=1.0)
    for data, now in [(chunk(""), 1.2), (chunk("a"), 1.5), (chunk("bc"), 2.0), (chunk("", "length"), 2.5)]:
        take(outcome, data, now)
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
    take(outcome, json.dumps({"choices": [], "usage": usage}).encode(), 2.6)
    take(outcome, b"[DONE]", 2.6)
    outcome.ended = 3.0
    assert (outcome.ttft, outcome.gaps, outcome.latency) == (0.5, [0.5], 2.0)
    assert outcome.tpot == pytest.approx(1 / 3)
    assert (outcome.input_tokens, outcome.cached_tokens, outcome.output_tokens, outcome.done) == (7, 3, 4, True)


def test_an_answer_without_text_begins_at_its_end() -> None:
    outcome = Outcome(asked=2)
    take(outcome, chunk("", "stop"), 4.0)
    assert (outcome.first, outcome.last, outcome.tpot) == (4.0, 4.0, None)


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {"content": "x"}},
        {"delta": {"reasoning_content": "x"}},
        {"delta": {"reasoning": "x"}},
        {"delta": {"tool_calls": [{"index": 0}]}},
        {"text": "x"},
    ],
)
def test_what_counts_as_text(choice: dict[str, object]) -> None:
    outcome = Outcome(asked=1)
    take(outcome, json.dumps({"choices": [{"delta": {"role": "assistant", "content": ""}}]}).encode(), 1.0)
    assert outcome.first is None
    take(outcome, json.dumps({"choices": [choice]}).encode(), 2.0)
    assert outcome.first == 2.0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_checkpoint(open_checkpoint(write_tiny_chat(tmp_path_factory.mktemp("bench-tokenizer"))))


def workload(tokenizer: Tokenizer | None, **values: Any) -> Workload:
    return Workload(BenchSettings(**values), tokenizer, CONFIG["vocab_size"] if tokenizer else 0)


def test_random_prompts_have_their_length_and_no_special_tokens(tokenizer: Tokenizer) -> None:
    made = workload(tokenizer, input_len=20, output_len=9)
    requests = made.requests(50, "x")
    assert {(len(request.prompt), request.output_len) for request in requests} == {(20, 9)}
    assert not tokenizer.special_ids & {token for request in requests for token in request.prompt}
    assert len({request.prompt for request in requests}) == 50


def test_the_same_seed_gives_the_same_prompts_and_another_run_gives_others(tokenizer: Tokenizer) -> None:
    once, again = workload(tokenizer), workload(tokenizer)
    assert once.requests(9, "8 in flight", 0) == again.requests(9, "8 in flight", 0)
    others = [
        once.requests(9, "1 in flight", 0),
        once.requests(9, "8 in flight", 1),
        workload(tokenizer, seed=1).requests(9),
    ]
    assert all(other != once.requests(9, "8 in flight", 0) for other in others)


def test_lengths_vary_by_their_ratio(tokenizer: Tokenizer) -> None:
    lengths = [len(r.prompt) for r in workload(tokenizer, input_len=100, range_ratio=0.5).requests(300)]
    assert min(lengths) >= 50 and max(lengths) <= 150 and len(set(lengths)) > 50


@pytest.mark.parametrize(
    ("values", "longest"),
    [
        ({"input_len": 10, "output_len": 7}, 17),
        ({"input_len": 10, "output_len": 8, "range_ratio": 0.5}, 27),
        ({"input_len": 10, "output_len": 7, "workload": "shared-prefix", "prefix_len": 30}, 47),
    ],
)
def test_requests_have_room_in_the_context(tokenizer: Tokenizer, values: dict[str, object], longest: int) -> None:
    made = workload(tokenizer, **values)
    made.check_length(longest)
    lengths = [len(request.prompt) + request.output_len for request in made.requests(500)]
    assert max(lengths) <= longest
    with pytest.raises(ConfigError, match=f"{longest} together; the context is {longest - 1} tokens"):
        made.check_length(longest - 1)
    workload(tokenizer, **values, prompts_as="text").check_length(1)


def test_prefixes_are_shared(tokenizer: Tokenizer) -> None:
    made = workload(tokenizer, workload="shared-prefix", prefix_len=30, num_prefixes=3, input_len=10)
    prompts = [request.prompt for request in made.requests(60)]
    assert {len(prompt) for prompt in prompts} == {40}
    assert len({prompt[:30] for prompt in prompts}) == 3 and len({prompt[30:] for prompt in prompts}) == 60


def test_text_prompts(tokenizer: Tokenizer) -> None:
    words = workload(None, input_len=12).requests(3)[0].prompt
    assert isinstance(words, str) and len(words.split()) == 12
    chat = workload(None, endpoint="chat", input_len=5).requests(1)[0].prompt
    assert isinstance(chat, list) and chat[0]["role"] == "user" and len(chat[0]["content"].split()) == 5
    text = workload(tokenizer, prompts_as="text", input_len=12).requests(1)[0].prompt
    assert isinstance(text, str) and len(tokenizer.encode(text, add_special_tokens=False)) <= 3 * 12


def lines(path: Path, *values: object) -> str:
    path.write_text("\n".join(json.dumps(value) for value in values) + "\n\n")
    return str(path)


def test_prompts_of_a_file(tmp_path: Path) -> None:
    file = lines(
        tmp_path / "p.jsonl", {"prompt": "one", "output_len": 3}, {"prompt": [1, 2]}, {"prompt": "x", "max_tokens": 2}
    )
    made = workload(None, workload="file", file=file, output_len=7)
    assert [(r.prompt, r.output_len) for r in made.requests(4)] == [("one", 3), ((1, 2), 7), ("x", 2), ("one", 3)]
    chat = workload(
        None, workload="file", file=lines(tmp_path / "c.jsonl", {"messages": [{"role": "user"}]}), endpoint="chat"
    )
    assert chat.requests(1)[0].prompt == [{"role": "user"}]


def test_a_prompt_of_a_file_may_hold_what_ends_lines_elsewhere(tmp_path: Path) -> None:
    file, prompt = tmp_path / "p.jsonl", "one\u2028two\x85three"
    file.write_text(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert workload(None, workload="file", file=str(file)).requests(1)[0].prompt == prompt


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[]], "line 1: a JSON object is needed"),
        ([{"prompt": "x"}, {"prompt": ""}], "line 2: a prompt of text or token ids is needed"),
        ([{"prompt": ["a"]}], "a prompt of text or token ids is needed"),
        ([{"prompt": "x", "output_len": 0}], "output_len 0: a whole number, at least 1, is needed"),
        ([], "has no line"),
    ],
)
def test_faults_of_a_file_name_the_line(tmp_path: Path, values: list[object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        workload(None, workload="file", file=lines(tmp_path / "p.jsonl", *values))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="file /no/such: No such file"):
        workload(None, workload="file", file="/no/such")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"workload": "flie"}, "workload: flie is not one of random, shared-prefix, file"),
        ({"workload": "file"}, "a file is needed"),
        ({"file": "x"}, "--file needs --workload file"),
        ({"concurrency": (0,)}, r"concurrency: 0 is out of range; legal: 1 to 4096"),
        ({"endpoint": "chat", "prompts_as": "ids"}, "prompts_as ids: chat takes text"),
        ({"repeat": 0}, "repeat: 0 is out of range; legal: 1 to 1000"),
        ({"timeout": 0.0}, "timeout: 0.0 is out of range; legal: above 0"),
    ],
)
def test_impossible_settings(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BenchSettings(**values)


def test_ids_need_a_vocabulary() -> None:
    with pytest.raises(ConfigError, match="the vocabulary is not known; name the model with --tokenizer"):
        workload(None, prompts_as="ids")


def test_loads_and_their_sizes() -> None:
    settings = BenchSettings(concurrency=(1, 32), request_rate=(0.5, float("inf")))
    assert [str(load) for load in settings.loads] == ["1 in flight", "32 in flight", "0.5 requests/s", "inf requests/s"]
    assert [settings.count(load) for load in settings.loads] == [16, 128, 16, 16]
    assert settings.loads[3].document() == {"request_rate": "inf"}
    assert BenchSettings().loads == (OfferedLoad(concurrency=1), OfferedLoad(concurrency=8))
    assert BenchSettings(num_prompts=5).count(OfferedLoad(concurrency=64)) == 5


def test_arrivals_are_poisson_and_repeatable() -> None:
    times = list(itertools.islice(arrivals(50.0, 3), 4000))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert times == list(itertools.islice(arrivals(50.0, 3), 4000)) and times[0] == 0.0
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.1)
    assert statistics.pstdev(gaps) == pytest.approx(1 / 50, rel=0.1)
    assert list(itertools.islice(arrivals(float("inf"), 0), 3)) == [0.0] * 3


def test_memory_is_that_of_the_fullest_rank() -> None:
    config = parse_config(CONFIG)
    first = memory_of(Shards(config, resolve({"attention.dp": 2})), "float32")
    other = memory_of(Shards(config, resolve({"attention.dp": 2, "o_proj.tp": 2, "lm_head.tp": 2})), "float32")
    hidden, vocab, layers = CONFIG["hidden_size"], CONFIG["vocab_size"], CONFIG["num_hidden_layers"]
    saved = first.saved(other)
    assert saved["o_proj"] == layers * hidden * hidden * 4 // 2
    assert saved["lm_head"] == vocab * hidden * 4 // 2
    assert saved["total"] == saved["o_proj"] + saved["lm_head"] and saved["dense"] == 0
    whole = sum(2 * first.modules[module] for module in first.modules)
    assert first.world == whole and other.world == whole - 2 * saved["total"]


def test_what_differs() -> None:
    first, other = resolve({"attention.dp": 2}), resolve({"attention.dp": 2, "lm_head.tp": 2})
    assert differences(first, other) == {"lm_head.tp": (1, 2)} and differences(first, first) == {}


def test_a_change_inside_the_spread_is_not_clear() -> None:
    first = measured([10.0, 12.0, 11.0])
    assert first == Measured(11.0, 10.0, 12.0)
    near, far = change(first, measured([11.9, 13.0])), change(first, measured([5.5, None]))
    assert near is not None and not near.clear
    assert far is not None and (far.by, far.percent, far.clear) == (-5.5, -50.0, True)
    assert change(first, measured([None])) is None


def test_layouts_take_turns_there_and_back() -> None:
    assert interleaved(3, 3) == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0), (2, 0), (2, 1), (2, 2)]


def test_a_command_is_saved_without_its_key() -> None:
    words = ["weft", "bench", "--api-key", "s3cret", "--api-key=s3cret", "--url", "u"]
    assert shown_command(words) == ["weft", "bench", "--api-key", "***", "--api-key=***", "--url", "u"]


def test_a_measurement_says_where_it_was_made(tmp_path: Path) -> None:
    here = machine()
    assert isinstance(here["cores"], int) and here["cores"] >= 1 and here["cpu"] and here["memory_bytes"]
    assert versions()["python"] and versions()["torch"]
    assert commit(tmp_path) is None


def test_a_processor_is_told_with_its_generation() -> None:
    of_amd = "cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"
    assert processor(of_amd * 2) == "AMD EPYC (family 26, model 2)"
    assert processor("Hardware\t: BCM2835\n") == "BCM2835"
    assert processor("cpu family\t: 26\nmodel\t\t: 2\n") is None


def test_changes_that_change_no_figure_are_left_out(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=b", *words], cwd=tmp_path, check=True)

    (tmp_path / "results").mkdir()
    files = [tmp_path / name for name in ("code.py", "results/one.json", "page.md")]
    for file in files:
        file.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")

    def changed(folder: Path = tmp_path) -> list[object]:
        return [(commit(folder, *but) or {})["changed"] for but in ((), ("results", "*.md"))]

    assert changed() == [False, False]
    for file in files[1:]:
        file.write_text("2")
    assert changed() == changed(tmp_path / "results") == [True, False]
    files[0].write_text("2")
    assert changed(tmp_path / "results") == [True, True]


@pytest.mark.parametrize(
    ("word", "url"),
    [
        ("http://h:1", "http://h:1"),
        ("h:1", "http://h:1"),
        ("https://h/api/v1/", "https://h/api"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
    ],
)
def test_addresses(word: str, url: str) -> None:
    assert base_url(word) == url


@pytest.mark.parametrize(
    "word", ["ftp://h", "http://", "http://h?x=1", "http://h:80o0", "http://[::1", "h:70000", "h:0"]
)
def test_what_is_no_address(word: str) -> None:
    with pytest.raises(ConfigError, match="legal: http://HOST:PORT"):
        base_url(word)


def test_a_plot_is_refused_before_the_measurement(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"legal endings: .png, .svg, .pdf"):
        check_plot(tmp_path / "x.txt")
    with pytest.raises(ConfigError, match="no such folder"):
        check_plot(tmp_path / "none" / "x.png")


def test_the_order_of_random_numbers_is_not_the_process(tokenizer: Tokenizer) -> None:
    random.seed(5)
    first = workload(tokenizer).requests(2)
    random.seed(6)
    assert workload(tokenizer).requests(2) == first
