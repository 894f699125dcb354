"""What torch's profiler wrote, as times of operations. Standard library only: drivers run where their engines live."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path


def self_times(trace: Path) -> dict[str, float]:
    """Microseconds of each operation of the worker's trace, without those it called."""
    text = gzip.decompress(trace.read_bytes()) if trace.suffix == ".gz" else trace.read_bytes()
    threads = defaultdict(list)
    for event in json.loads(text)["traceEvents"]:
        if event.get("ph") == "X" and event.get("cat") == "cpu_op":
            threads[event["pid"], event["tid"]].append((event["ts"], -event["dur"], event["name"]))
    found: dict[str, float] = defaultdict(float)
    for events in threads.values():
        stack: list[tuple[float, str]] = []
        for began, minus, name in sorted(events):
            while stack and stack[-1][0] <= began:
                stack.pop()
            if stack:
                found[stack[-1][1]] += minus
            found[name] -= minus
            stack.append((began - minus, name))
    return dict(found)
