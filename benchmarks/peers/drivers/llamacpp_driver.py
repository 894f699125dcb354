"""llama.cpp by its own tools: llama-bench for one stream, llama-batched-bench for many.

They make up their own ids and sample nothing; every run is a process of its own, with the tool's own warm-up.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from protocol import Answer, Driver, obey


class LlamaCpp(Driver):
    """Settings: model, threads, programs (a folder)."""

    def load(self, settings: dict[str, Any]) -> str:
        self.programs = Path(settings["programs"])
        threads = str(settings["threads"])
        self.common = ["-m", settings["model"], "-t", threads, "-fa", "on", "-b", "2048", "-ub", "512"]
        self.batch_threads = ["-tb", threads]
        return (self.programs / "VERSION").read_text().strip()

    def run(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        length = len(prompts[0])
        if len(prompts) > 1:
            return self._batched(len(prompts), length, new_tokens)
        first_s, peak = self._bench(["-p", str(length), "-n", "0"])
        if new_tokens == 1:
            return Answer(first_s, first_s, peak_bytes=peak)
        rest_s, peak = self._bench(["-p", "0", "-n", str(new_tokens - 1), "-d", str(length)])
        return Answer(first_s, first_s + rest_s, peak_bytes=peak)

    def _bench(self, words: list[str]) -> tuple[float, int]:
        """Seconds of what `words` ask for, and the peak memory."""
        text, peak = self._tool("llama-bench", [*words, "-r", "1", "-o", "json"])
        return float(json.loads(text)[0]["avg_ns"]) / 1e9, peak

    def _batched(self, streams: int, length: int, new_tokens: int) -> Answer:
        sizes = {"-npp": length, "-ntg": new_tokens, "-npl": streams, "-c": streams * (length + new_tokens)}
        words = [word for name, size in sizes.items() for word in (name, str(size))]
        text, peak = self._tool("llama-batched-bench", [*self.batch_threads, *words, "--output-format", "jsonl"])
        found = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
        return Answer(float(found["t_pp"]), float(found["t"]), peak_bytes=peak)

    def _tool(self, name: str, words: list[str]) -> tuple[str, int]:
        """Its output, and its peak memory in bytes."""
        tie = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        command = [*tie, str(self.programs / name), *self.common, *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True) as process:
            assert process.stdout is not None
            text = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{name} ended with exit code {process.returncode}")
        return text, usage.ru_maxrss * 1024


if __name__ == "__main__":
    obey(LlamaCpp())
