"""A visit: one engine started, measured on every case once, and ended. Only one engine is alive at any time.

Every visit starts anew: nothing of another engine is left in memory, none can spin beside it, and every round has its
own cold start. Beside each figure stands what the probe found the moment before, while its processes were held:
threads of some engines spin for long after their work.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.cases import Case, figures
from benchmarks.peers.engines import Engine
from benchmarks.peers.http_client import BurstFailed, burst, free_port, llama_server_ids
from benchmarks.peers.places import Places
from benchmarks.peers.probe import Probe
from benchmarks.peers.processes import Child, DriverProcess, Failed, Refused, ServerProcess
from weft.tools.bench.outcome import Outcome
from weft.tools.bench.stats import percentile

CALL_LIMIT_S = 900.0
START_LIMIT_S = 300.0
WARM_UP_TOKENS = 8
KEPT_IDS = ("decode", "streams8")
COLD_PROMPT = 128

Prompts = Callable[[int, int], list[list[int]]]
"""(count, length) -> token ids."""


def said(error: Exception) -> str:
    """In one line, without the folders of the machine that an engine was built on."""
    return " ".join(re.sub(r"(?<![\w.])(?:/[^\s/:]+)+/", "", str(error)).split())


class Visitor:
    """Makes visits; each returns a record for JSON. `bursts`: repetitions of a served case."""

    def __init__(self, places: Places, prompts: Prompts, probe: Probe, bursts: int) -> None:
        self.places, self.prompts, self.probe, self.bursts = places, prompts, probe, bursts

    def offline(self, engine: Engine, cases: tuple[Case, ...]) -> dict[str, Any]:
        """Through the engine's driver. `cold_s`: from the start of its process to a first token."""
        command, environment = self.places.driver(engine), self.places.environment(engine, cases)
        record: dict[str, Any] = {"cases": {}, "ids": {}}
        try:
            with DriverProcess(command, environment, self._log(engine, "driver")) as driver:
                record |= driver.ask("load", START_LIMIT_S, settings=self.places.settings(engine, cases))
                driver.ask("run", CALL_LIMIT_S, prompts=self.prompts(1, COLD_PROMPT), new_tokens=1)
                record["cold_s"] = driver.seconds
                peaks = [self._case(driver, case, record) for case in cases]
                record |= _memory(driver, max(peaks))
        except (Refused, Failed) as error:
            record["refused" if isinstance(error, Refused) else "error"] = said(error)
        return record

    def _case(self, driver: DriverProcess, case: Case, record: dict[str, Any]) -> int:
        """Measures; returns the peak memory of tools that have ended, 0 where there are none."""
        prompts = self.prompts(case.streams, case.prompt)
        driver.ask("run", CALL_LIMIT_S, prompts=prompts, new_tokens=min(WARM_UP_TOKENS, case.new))
        state = self._state(driver)
        try:
            answer = driver.ask("run", CALL_LIMIT_S, prompts=prompts, new_tokens=case.new)
        except Failed as error:
            if driver.process.poll() is not None:
                raise
            record["cases"][case.name] = {"error": str(error)}
            return 0
        record["cases"][case.name] = {**figures(case, answer["first_s"], answer["seconds"]), "state": state}
        if answer["ids"] is not None and case.name in KEPT_IDS:
            record["ids"][case.name] = answer["ids"]
        return answer["peak_bytes"] or 0

    def served(self, engine: Engine, cases: tuple[Case, ...]) -> dict[str, Any]:
        """Through the engine's server, over HTTP. `cold_s`: from its start to the first answer of one token."""
        port = free_port()
        command, environment = self.places.server(engine, cases, port), self.places.environment(engine, cases)
        record: dict[str, Any] = {"cases": {}}
        try:
            with ServerProcess(command, environment, self._log(engine, "server")) as server:
                self._wait(server, port)
                record["cold_s"] = server.seconds
                for case in cases:
                    record["cases"][case.name] = self._bursts(server, port, case)
                record |= _memory(server, 0)
                if engine.peer == "llamacpp":  # its offline tools make up their own
                    prompt = self.prompts(1, COLD_PROMPT)[0]
                    record["ids"] = {"decode": [llama_server_ids(port, prompt, cases[0].new, CALL_LIMIT_S)]}
        except (Failed, BurstFailed) as error:
            record["error"] = said(error)
        except Refused as error:
            record["refused"] = said(error)
        return record

    def _wait(self, server: Child, port: int) -> None:
        """Until a prompt is answered."""
        prompt = self.prompts(1, COLD_PROMPT)
        while server.seconds < START_LIMIT_S:
            if server.process.poll() is not None:
                raise server.failure()
            try:
                burst(port, prompt, 1, START_LIMIT_S)
                return
            except BurstFailed:
                time.sleep(0.05)
        raise Failed(f"no answer within {START_LIMIT_S:g} s of its start")

    def _bursts(self, server: Child, port: int, case: Case) -> dict[str, Any]:
        prompts = self.prompts(case.streams, case.prompt)
        burst(port, prompts, min(WARM_UP_TOKENS, case.new), CALL_LIMIT_S)
        found: list[dict[str, Any]] = []
        for _ in range(self.bursts):
            state = self._state(server)
            used = time.process_time()
            outcomes = burst(port, prompts, case.new, CALL_LIMIT_S)
            found.append(served_figures(outcomes) | {"client_s": time.process_time() - used, "state": state})
        return {"bursts": found}

    def _state(self, child: Child) -> dict[str, float]:
        with child.held():
            return self.probe.ask()

    def _log(self, engine: Engine, what: str) -> Path:
        """Of this visit; the last one's is gone."""
        folder = self.places.cache / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{engine.name}-{what}.log"
        path.unlink(missing_ok=True)
        return path


def served_figures(outcomes: list[Outcome]) -> dict[str, float]:
    """Of one burst: output tokens per second from the first request to the last token; percentiles over all streams of
    the time to first token and of the gaps between pieces of text, ms."""
    began, ended = min(one.sent for one in outcomes), max(one.last or 0.0 for one in outcomes)
    first = sorted(1e3 * one.ttft for one in outcomes if one.ttft is not None)
    gaps = sorted(1e3 * gap for one in outcomes for gap in one.gaps) or [0.0]
    return {
        "output": sum(one.output_tokens for one in outcomes) / (ended - began),
        "ttft_p50": percentile(first, 50),
        "ttft_p99": percentile(first, 99),
        "itl_p50": percentile(gaps, 50),
        "itl_p99": percentile(gaps, 99),
    }


def _memory(child: Child, tools: int) -> dict[str, int]:
    """Peak and present memory; `tools`: the largest of those that came and went."""
    found = child.memory()
    return {"peak_bytes": max(found["peak"], tools), "pss_bytes": max(found["pss"], tools)}
