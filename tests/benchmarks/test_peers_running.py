"""benchmarks/peers: drivers, servers, bursts, memory of trees, the order of visits. Engines are small stand-ins."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.peers import cases, engines
from benchmarks.peers.http_client import BurstFailed, burst, llama_server_ids, request
from benchmarks.peers.places import HERE, ROOT, Places
from benchmarks.peers.probe import stolen_s
from benchmarks.peers.process_tree import memory, runs, tree
from benchmarks.peers.processes import DriverProcess, Failed, Refused, ServerProcess
from benchmarks.peers.prompts import prompts
from benchmarks.peers.schedule import MOST_STOLEN, TRIES, Record, least_disturbed, to_do
from benchmarks.peers.visits import Visitor, said, served_figures
from tests.support.waiting import ticks, until
from weft.tools.bench.outcome import Outcome

STATE = {"gb_per_s": 40.0, "flag_us": 0.05, "gflop_per_s": 1000.0}

DRIVER = """
import os, sys, time
sys.path.insert(0, {drivers!r})
from protocol import Answer, Driver, Refused, obey

class Stand(Driver):
    def load(self, settings):
        print("an engine that talks on standard output", flush=True)
        os.system("echo and its C++ parts do")
        if settings["mood"] == "refuses":
            raise Refused("no such option")
        self.mood = settings["mood"]
        return "1.0"
    def run(self, prompts, new_tokens):
        if new_tokens > 8 and self.mood == "fails":
            raise ValueError("out of room")
        if new_tokens > 8 and self.mood == "dies":
            print("the last words", file=sys.stderr, flush=True)
            os._exit(3)
        if self.mood == "hangs":
            time.sleep(600)
        return Answer(0.5 if len(prompts) == 1 else None, 2.5, [[len(one)] * new_tokens for one in prompts], 7 << 30)

obey(Stand())
"""


@pytest.fixture
def driver(tmp_path: Path) -> Callable[[], DriverProcess]:
    """Starts a stand-in."""
    (tmp_path / "driver.py").write_text(DRIVER.format(drivers=str(HERE / "drivers")))
    return lambda: DriverProcess([sys.executable, str(tmp_path / "driver.py")], os.environ, tmp_path / "log")


def test_a_driver_answers_though_its_engine_prints(driver: Callable[[], DriverProcess], tmp_path: Path) -> None:
    with driver() as process:
        assert process.ask("load", 120, settings={"mood": "well"}) == {"version": "1.0"}
        answer = process.ask("run", 120, prompts=[[1, 2, 3]], new_tokens=2)
        assert answer == {"first_s": 0.5, "seconds": 2.5, "ids": [[3, 3]], "peak_bytes": 7 << 30}
        assert process.memory()["peak"] > process.memory()["pss"] // 2 > 0
    assert process.process.poll() == 0
    assert "C++ parts" in (tmp_path / "log").read_text()


def test_nothing_of_a_held_engine_runs(tmp_path: Path) -> None:
    """A child that spins, and one of its own."""
    script = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'while True: pass'])\nwhile True: pass"
    with ServerProcess([sys.executable, "-c", script], os.environ, tmp_path / "log") as server:
        until(lambda: own_program(server.process.pid, *tree(server.process.pid)[1:]))
        everyone = tree(server.process.pid)
        with server.held():
            until(lambda: [state_of(pid) for pid in everyone] == ["T", "T"])
            before = [ticks(pid) for pid in everyone]
            time.sleep(0.05)
            assert [ticks(pid) for pid in everyone] == before
        until(lambda: all(ticks(pid) > was for pid, was in zip(everyone, before, strict=True)))


def own_program(pid: int, *children: int) -> bool:
    """Whether there is a child and it runs what it was started for.

    Until then it runs in its parent's memory (`vfork`), which waits for it in state D, where no signal stops a process.
    """
    assert runs(pid)
    return len(children) == 1 and command_of(children[0]) not in ("", command_of(pid))


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_a_driver_cannot_do_is_told_apart(driver: Callable[[], DriverProcess]) -> None:
    with driver() as process:
        with pytest.raises(Refused, match="no such option"):
            process.ask("load", 120, settings={"mood": "refuses"})
    with driver() as process:
        process.ask("load", 120, settings={"mood": "fails"})
        with pytest.raises(Failed, match="ValueError: out of room"):
            process.ask("run", 120, prompts=[[1]], new_tokens=9)
        assert process.ask("run", 120, prompts=[[1]], new_tokens=1)["ids"] == [[1]]
        process.ask("load", 120, settings={"mood": "dies"})
        with pytest.raises(Failed, match="exit code 3; it said last: the last words"):
            process.ask("run", 120, prompts=[[1]], new_tokens=9)


def test_a_driver_that_hangs_is_ended(driver: Callable[[], DriverProcess]) -> None:
    with driver() as process:
        process.patience_s = 0.1
        process.ask("load", 120, settings={"mood": "hangs"})
        with pytest.raises(Failed, match="no answer to run after 0.1 s"):
            process.ask("run", 0.1, prompts=[[1]], new_tokens=1)
    assert process.process.poll() is not None


def test_a_server_and_all_it_started_are_ended(tmp_path: Path) -> None:
    script = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).wait()"
    with ServerProcess([sys.executable, "-c", script], os.environ, tmp_path / "log") as server:
        until(lambda: own_program(server.process.pid, *tree(server.process.pid)[1:]))
        everyone = tree(server.process.pid)
    assert not [pid for pid in everyone if runs(pid)]


def test_our_own_servers_refusal_is_its_first_line(tmp_path: Path) -> None:
    script = "print('weft serve: no option x', 'weft serve --help lists them', sep=chr(10)); raise SystemExit(2)"
    with ServerProcess([sys.executable, "-c", script], os.environ, tmp_path / "log") as server:
        server.process.wait(60)
        found = server.failure()
    assert isinstance(found, Refused) and str(found) == "no option x"


def test_memory_of_a_tree_sums_peaks_and_shares(tmp_path: Path) -> None:
    for pid, parent, peak, pss in ((10, 1, 100, 50), (11, 10, 30, 20), (12, 11, 5, 4), (13, 1, 999, 999)):
        place = tmp_path / str(pid)
        place.mkdir()
        (place / "stat").write_text(f"{pid} (a ) name) S {parent} 0 0")
        (place / "status").write_text(f"Name:\tx\nVmHWM:\t  {peak} kB\nVmRSS:\t 1 kB\n")
        (place / "smaps_rollup").write_text(f"Rss: 7 kB\nPss:  {pss} kB\nPss_Anon: 1 kB\n")
    (tmp_path / "12" / "smaps_rollup").unlink()  # it ended just now
    assert tree(10, tmp_path) == [10, 11, 12]
    assert memory(10, tmp_path) == {"peak": 135 * 1024, "pss": 70 * 1024}


def test_prompts_have_their_length_and_never_begin_alike() -> None:
    found = prompts(lambda text: list(text.encode()), 300, 40)
    assert {len(one) for one in found} == {40}
    assert len({tuple(one[:8]) for one in found}) == 300
    assert found[:5] == prompts(lambda text: list(text.encode()), 5, 40)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A cache with the small model's config."""
    folder = tmp_path / "models" / "smollm2" / "directory"
    folder.mkdir(parents=True)
    sizes = {"num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}
    more = {"intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192}
    (folder / "config.json").write_text(json.dumps(sizes | more))
    return Places(tmp_path, "smollm2", (0, 1))


def test_vllm_gets_every_core_once_whatever_the_ranks(places: Places) -> None:
    one, two = engines.chosen(["vllm"])
    main = cases.chosen(["main"])
    assert places.environment(one, main)["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"
    assert places.environment(two, main)["VLLM_CPU_OMP_THREADS_BIND"] == "0|1"
    assert places.server(two, main, 7)[-2:] == ["--tensor-parallel-size", "2"]
    assert str(places.models / "padded") in places.server(two, main, 7)


def test_room_for_the_longest_sequence_ends_where_the_model_does(places: Places) -> None:
    assert places.length(cases.chosen(["prefill", "decode"])) == 1025 + 16
    assert places.length(cases.chosen(["long"])) == 8192


def test_no_engine_gets_the_callers_thread_count(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    main = cases.chosen(["main"])
    assert {
        one.name: places.environment(one, main).get("OMP_NUM_THREADS")
        for one in engines.ENGINES
        if one.peer not in ("weft", "vllm")
    } == {one.name: "2" for one in engines.ENGINES if one.peer not in ("weft", "vllm")}
    for one in engines.chosen(["weft", "vllm"]):
        assert "OMP_NUM_THREADS" not in places.environment(one, main)


def test_room_for_keys_and_values_follows_the_largest_case(places: Places) -> None:
    assert places.kv_gib(cases.chosen(["main"])) == 2
    assert places.kv_gib(cases.chosen(["streams256"])) == 2  # 256 * 256 tokens of 23,040 bytes and a fifth: 1.7 GiB
    assert places.kv_gib((cases.Case("more", 1024, 128, 128),)) == 7


def test_servers_have_room_for_the_cases_and_keep_no_prefix(places: Places) -> None:
    main = cases.chosen(["http"])
    for one in [one for one in engines.ENGINES if one.words is not None]:
        words = places.server(one, main, 4321)
        assert words[words.index("--port") + 1] == "4321" and words[words.index("--host") + 1] == "127.0.0.1"
        assert {"--no-enable-prefix-caching", "--no-cache-prompt"} & set(words)
        if one.peer == "llamacpp":
            assert words[words.index("-np") + 1] == "32" and words[words.index("-c") + 1] == str(32 * (256 + 16))
        else:
            assert words[words.index("--max-num-seqs") + 1] == "32"
    int8 = engines.chosen(["weft-int8"])[0]
    assert places.server(int8, main, 1)[-4:] == ["--quantization", "int8", "--activations", "full"]


class Visits(Visitor):
    """A visitor for which a stand-in is every engine."""

    def __init__(self, places: Places, mood: str) -> None:
        memory: Any = SimpleNamespace(ask=lambda: STATE)
        super().__init__(places, lambda count, length: [[1] * length] * count, memory, 2)
        self.mood = mood


def stand_in(places: Places, mood: str, monkeypatch: pytest.MonkeyPatch) -> Visitor:
    path = places.cache / "driver.py"
    path.write_text(DRIVER.format(drivers=str(HERE / "drivers")))
    monkeypatch.setattr(Places, "driver", lambda *_: [sys.executable, str(path)])
    monkeypatch.setattr(Places, "settings", lambda *_: {"mood": mood})
    return Visits(places, mood)


def test_a_visit_records_figures_ids_memory_and_state(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engines.chosen(["transformers"])[0]
    found = stand_in(places, "well", monkeypatch).offline(engine, cases.chosen(["decode", "streams8", "streams32"]))
    assert found["cases"]["decode"] == {"decode": 255 / 2, "prefill": 256.0, "output": 256 / 2.5, "state": STATE}
    assert found["cases"]["streams32"] == {"output": 32 * 128 / 2.5, "state": STATE}
    assert {name: len(ids) for name, ids in found["ids"].items()} == {"decode": 1, "streams8": 8}
    assert found["version"] == "1.0" and found["cold_s"] > 0
    assert found["peak_bytes"] == found["pss_bytes"] == 7 << 30


@pytest.mark.parametrize(
    ("mood", "key", "text"),
    [("refuses", "refused", "no such option"), ("dies", "error", "exit code 3"), ("fails", None, "out of room")],
)
def test_a_visit_that_goes_wrong_says_why(
    places: Places, monkeypatch: pytest.MonkeyPatch, mood: str, key: str | None, text: str
) -> None:
    engine = engines.chosen(["transformers"])[0]
    found = stand_in(places, mood, monkeypatch).offline(engine, cases.chosen(["decode", "prefill"]))
    if key is not None:
        assert text in found[key] and not found["cases"]
    else:
        assert text in found["cases"]["decode"]["error"]
        assert found["cases"]["prefill"]["prefill"] == 2048.0


def test_every_round_visits_all_there_and_back(tmp_path: Path) -> None:
    record = Record(tmp_path / "a.json", {}, resume=False)
    some = engines.chosen(["weft-tp1", "transformers", "vllm-cpu"])
    found = list(to_do(some, cases.chosen(["decode", "http1"]), 2, record))
    assert [(one.engine.name, one.kind, one.round) for one in found] == [
        *(("weft-tp1", "offline", 0), ("transformers", "offline", 0), ("vllm-cpu", "offline", 0)),
        *(("vllm-cpu", "offline", 1), ("transformers", "offline", 1), ("weft-tp1", "offline", 1)),
        *(("weft-tp1", "served", 0), ("vllm-cpu", "served", 0), ("vllm-cpu", "served", 1), ("weft-tp1", "served", 1)),
    ]
    assert all(len(one.cases) == 1 for one in found)


@pytest.mark.parametrize(
    ("stolen", "kept", "others"),
    [
        ([0.0], 0, 0),
        ([MOST_STOLEN], 0, 0),
        ([0.9, 0.2, 0.01], 2, 2),
        ([0.9, 0.2, 0.3, 0.4], 1, TRIES - 1),
    ],
)
def test_a_visit_that_was_robbed_of_the_cores_is_made_again(stolen: list[float], kept: int, others: int) -> None:
    left, pauses = [{"number": number, "stolen": share} for number, share in enumerate(stolen)], list[float]()
    found, again = least_disturbed(lambda: left.pop(0), pauses.append)
    assert (found["number"], again, len(pauses), left) == (kept, others, others, [])


def test_what_was_stolen_never_falls() -> None:
    assert 0 <= stolen_s() <= stolen_s()


def test_a_run_is_resumed_where_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    some, both = engines.chosen(["weft-tp1", "transformers"]), cases.chosen(["decode", "prefill"])
    first = Record(path, {"form": "x"}, resume=False)
    done = {"engine": "weft-tp1", "kind": "offline", "round": 0, "seconds": 9.0}
    first.add({**done, "cases": {"decode": {"decode": 1.0}, "prefill": {"error": "no"}}})
    first.add({"engine": "transformers", "kind": "offline", "round": 0, "seconds": 1.0, "cases": {}, "error": "died"})
    again = Record(path, {"form": "x"}, resume=True)
    left = list(to_do(some, both, 1, again))
    assert [(one.engine.name, [case.name for case in one.cases]) for one in left] == [
        ("weft-tp1", ["prefill"]),
        ("transformers", ["decode", "prefill"]),
    ]
    assert [again.usual_s(one) for one in left] == [9.0, 1.0]
    again.add({"engine": "transformers", "kind": "offline", "round": 0, "seconds": 2.0, "cases": {"decode": {}}})
    kept = json.loads(path.read_text())
    assert [(one["engine"], "error" in one) for one in kept["visits"]] == [("weft-tp1", False), ("transformers", False)]
    assert Record(path, {}, resume=False).visits == []


Reply = Callable[[dict[str, Any]], tuple[str, list[bytes]]]


@contextmanager
def serving(reply: Reply) -> Iterator[int]:
    """The port of a server that answers each request with a status line and chunks, a write each."""
    loop, ready, ports = asyncio.new_event_loop(), threading.Event(), list[int]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = int(head.lower().partition("content-length:")[2].split()[0])
        status, chunks = reply(json.loads(await reader.readexactly(size)))
        writer.write(f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for chunk in [*chunks, b""]:
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        try:
            async with server:
                await server.serve_forever()
        except asyncio.CancelledError:
            pass

    task = loop.create_task(main())
    thread = threading.Thread(target=loop.run_until_complete, args=(task,))
    thread.start()
    assert ready.wait(60)
    yield ports[0]
    loop.call_soon_threadsafe(task.cancel)
    thread.join(60)
    loop.close()


def chunk(**words: Any) -> bytes:
    return b"data: " + json.dumps(words).encode() + b"\n\n"


def stream(body: dict[str, Any], tokens: int | None = None) -> list[bytes]:
    """Pieces of text, cut across chunk borders, with the finish reason, the usage and the end."""
    count = tokens if tokens is not None else body["max_tokens"]
    pieces = [chunk(choices=[{"text": "x"}]) for _ in range(count)]
    end = chunk(choices=[{"text": "", "finish_reason": "length"}])
    usage = chunk(choices=[], usage={"prompt_tokens": len(body["prompt"]), "completion_tokens": count})
    whole = b"".join(pieces) + end + usage + b"data: [DONE]\n\n"
    return [whole[start : start + 37] for start in range(0, len(whole), 37)]


def test_a_burst_reads_every_stream_whole() -> None:
    with serving(lambda body: ("200 OK", stream(body))) as port:
        outcomes = burst(port, [[1, 2], [3, 4, 5]], 6, 120)
    assert [(one.output_tokens, one.input_tokens, one.pieces) for one in outcomes] == [(6, 2, 6), (6, 3, 6)]
    assert all(one.done and len(one.gaps) == 5 and one.ttft is not None and one.ttft > 0 for one in outcomes)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (lambda body: ("503 Service Unavailable", [b'{"error": "loading"}']), "HTTP 503: .*loading"),
        (lambda body: ("200 OK", stream(body, 3)), "3 tokens instead of 6"),
        (lambda body: ("200 OK", [chunk(error={"message": "a rank died"})]), "error in the stream"),
    ],
)
def test_a_stream_that_is_not_whole_fails_the_burst(reply: Reply, text: str) -> None:
    with serving(reply) as port, pytest.raises(BurstFailed, match=text):
        burst(port, [[1]], 6, 120)


def test_ids_of_a_llama_server() -> None:
    def reply(body: dict[str, Any]) -> tuple[str, list[bytes]]:
        if len(body["prompt"]) > 1:
            return "400 Bad Request", []
        return "200 OK", [json.dumps({"tokens": [*body["prompt"], body["n_predict"]]}).encode()]

    with serving(reply) as port:
        assert llama_server_ids(port, [7], 5, 120) == [7, 5]
        with pytest.raises(BurstFailed, match="no ids: .*400"):
            llama_server_ids(port, [7, 8], 5, 120)


def test_nobody_there_fails_the_burst() -> None:
    with socket.socket() as silent:  # it has a port, and does not listen
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(BurstFailed, match="no connection"):
            burst(silent.getsockname()[1], [[1]], 6, 120)


def test_a_request_asks_for_exactly_the_tokens_greedily() -> None:
    head, _, body = request([1, 2], 5, "model").partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    words = json.loads(body)
    assert (words["prompt"], words["max_tokens"], words["temperature"], words["ignore_eos"]) == ([1, 2], 5, 0, True)


def test_served_figures_are_of_all_streams_together() -> None:
    def outcome(sent: float, first: float, gaps: list[float]) -> Outcome:
        return Outcome(1, sent=sent, first=first, last=first + sum(gaps), gaps=gaps, output_tokens=1 + len(gaps))

    found = served_figures([outcome(1.0, 1.5, [0.01, 0.03]), outcome(1.0, 2.0, [0.02, 0.98])])
    assert found["output"] == pytest.approx(6 / 2.0)
    assert [found["ttft_p50"], found["ttft_p99"]] == pytest.approx([750, 995])
    assert found["itl_p50"] == pytest.approx(25)


def test_the_command_explains_itself_and_refuses_unknown_words() -> None:
    command = [str(ROOT / "benchmarks" / "peers" / "run")]
    environment = {**os.environ, "PY": sys.executable}
    done = subprocess.run([*command, "--cases", "fast"], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and "no case fast; legal: main" in done.stderr


def test_what_an_engine_said_is_one_line_without_the_folders_of_its_makers() -> None:
    error = Failed("RuntimeError: at src/cpp/core.cpp:117:\nCheck 'a / b' failed at /build/ci/w_1/executor.cpp:2938:\n")
    assert said(error) == "RuntimeError: at src/cpp/core.cpp:117: Check 'a / b' failed at executor.cpp:2938:"
