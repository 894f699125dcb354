"""A trace's operations keep what those that they called did not take; a step is theirs and Python's."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.drivers.trace_times import self_times
from benchmarks.peers.vllm_profile import CASES, PYTHON, grouped, page


def event(name: str, began: float, took: float, thread: int = 1, kind: str = "cpu_op") -> dict[str, Any]:
    return {"ph": "X", "cat": kind, "name": name, "pid": 1, "tid": thread, "ts": began, "dur": took}


@pytest.mark.parametrize("packed", [False, True])
def test_time_belongs_to_the_innermost_operation(tmp_path: Path, packed: bool) -> None:
    events = [
        event("aten::linear", 0, 10), event("onednn_mm", 2, 6), event("aten::empty", 3, 1), event("aten::add", 10, 2),
        event("aten::add", 4, 3, thread=2), event("a function", 0, 100, kind="python_function"),
    ]  # fmt: skip
    text = json.dumps({"traceEvents": [*events, {"ph": "M", "name": "process_name"}]}).encode()
    trace = tmp_path / ("trace.json.gz" if packed else "trace.json")
    trace.write_bytes(gzip.compress(text) if packed else text)
    assert self_times(trace) == {"aten::linear": 4, "onednn_mm": 5, "aten::empty": 1, "aten::add": 5}


def test_what_no_operation_took_is_between_them() -> None:
    case = {"step_us": 100.0, "operations_us": {"aten::linear": 40.0, "cpu_attention": 20.0, "aten::copy_": 5.0}}
    found = grouped(case)
    assert (found["linear"], found["attention and its cache"], found["other operations"], found[PYTHON]) == (
        40,
        20,
        5,
        35,
    )
    assert sum(found.values()) == case["step_us"]


def test_the_page_has_a_column_for_every_case() -> None:
    operations = {"aten::mm": 1.0, "silu_and_mul": 2.0, "aten::argmax": 3.0}
    cases = [{"name": case.name, "step_us": 10.0, "operations_us": operations} for case in CASES]
    for case in cases:
        case["groups_us"] = grouped(case)
    about = {"command": "c", "cpu": "p", "cores": 2, "kernel": "k"}
    rows = [line for line in page({"about": about, "memory": {}, "cases": cases}).splitlines() if line.startswith("| ")]
    assert all(row.count("|") == len(CASES) + 2 for row in rows)
    assert "| sampling | 3 (30%)" in "\n".join(rows) and "| whole step | 10 |" in "\n".join(rows)
