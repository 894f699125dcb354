"""The roofline of docs/pictures: what four machines allow, and what weft reaches there, from benchmarks/results.

Across: operations for each byte that is read from memory. Up: operations a second. A machine's roof rises with its
memory's bandwidth to the rate of its bf16 products (S. Williams et al., "Roofline", 2009). Both axes are logarithmic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.cases import OFFLINE, Case
from benchmarks.peers.report.limits import Shape
from scripts.drawing import svg, text

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
SHAPE = Shape(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocabulary=49152)
"""Of the embedded model, SmolLM2-135M."""
COLOURS = {"zen5": "#e15759", "zen4": "#f28e2b", "amx": "#4e79a7", "avx2": "#59a14f"}
"""Machine -> colour of its roof and points."""
LEFT, TOP, WIDTH, HEIGHT = 70, 50, 560, 330
ACROSS, UP = (1, 4000), (10, 10000)
"""Least and most of each axis: operations per byte, and GFLOP/s."""
GRID = ((1, 10, 100, 1000), (10, 100, 1000, 10000))
CASES = {case.name: case for case in OFFLINE}
MARKS = {"one stream": "o", "one stream, 4-bit weights": "s", "32 streams": "d", "prompt of 1,024": "t"}
"""What a point is of -> its mark."""


def read(name: str) -> dict[str, Any]:
    """A result."""
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


@dataclass(frozen=True, slots=True)
class Point:
    """What was reached: operations per byte, GFLOP/s."""

    of: str
    machine: str
    intensity: float
    gflop_per_s: float


def one_stream(machine: str, weights: str) -> dict[str, float]:
    """The decode steps of one stream; empty where they were not measured."""
    name = f"decode-bound-{weights}-{machine}.json"
    found: dict[str, float] = read(name)["cases"]["decode, one stream"] if (RESULTS / name).exists() else {}
    return found


def batch(machine: str, case: Case, quantity: str) -> tuple[float, float]:
    """Medians over weft's bursts of a case: tokens a second, and the machine's GFLOP/s beside them (0: unknown)."""
    visits = [visit for visit in read(f"peers-{machine}.json")["visits"] if visit["engine"] == "weft-tp1"]
    found = [visit["cases"][case.name] for visit in visits if "state" in visit["cases"].get(case.name, {})]
    return median(one[quantity] for one in found), median(one["state"]["gflop_per_s"] for one in found)


def work(case: Case, weight_bytes: float) -> tuple[float, float]:
    """Operations and bytes of a whole burst: its prompts in one step, then a step for each further token."""
    steps, context = case.new - 1, case.prompt + case.new / 2
    flop = case.streams * SHAPE.prefill_flop(case.prompt) + steps * SHAPE.step_flop(case.streams, context)
    cached = steps * case.streams * context * SHAPE.kv_bytes
    return flop, (1 + steps) * weight_bytes + cached


def points(machine: str) -> Iterator[Point]:
    """All that is known of a machine."""
    for of, weights in (("one stream", "bf16"), ("one stream, 4-bit weights", "int4")):
        if found := one_stream(machine, weights):
            flop, read_bytes = SHAPE.step_flop(1, 256), 1e6 * found["bound_ms"] * found["gb_per_s"]
            yield Point(of, machine, flop / read_bytes, flop / found["step_ms"] / 1e6)
    weight_bytes = 1e6 * one_stream(machine, "bf16")["weights_mb"]
    for of, name, quantity in (("32 streams", "streams32", "output"), ("prompt of 1,024", "prefill", "prefill")):
        case = CASES[name]
        tokens = case.prompt if quantity == "prefill" else case.streams * case.new
        flop, read_bytes = work(case, weight_bytes)
        yield Point(of, machine, flop / read_bytes, flop * batch(machine, case, quantity)[0] / tokens / 1e9)


def place(intensity: float, gflop_per_s: float) -> tuple[float, float]:
    """Pixels of a point."""
    across = math.log(intensity / ACROSS[0]) / math.log(ACROSS[1] / ACROSS[0])
    up = math.log(gflop_per_s / UP[0]) / math.log(UP[1] / UP[0])
    return round(LEFT + WIDTH * across, 1), round(TOP + HEIGHT * (1 - up), 1)


def roof(machine: str) -> str:
    """A machine's roof; only the slope where the rate of its products is not known."""
    slope, flat = one_stream(machine, "bf16")["gb_per_s"], batch(machine, CASES["prefill"], "prefill")[1]
    end = flat / slope if flat else 10.0
    corners = [place(UP[0] / slope, UP[0]) if slope < UP[0] else place(1, slope), place(end, slope * end)]
    if flat:
        corners.append(place(ACROSS[1], flat))
    line = "L".join(f"{x} {y}" for x, y in corners)
    return f'<path d="M{line}" stroke="{COLOURS[machine]}" stroke-width="2" fill="none"/>'


def mark(kind: str, x: float, y: float, colour: str) -> str:
    """A mark with its middle at x, y: o circle, s square, d diamond, t triangle."""
    if kind == "o":
        return f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>'
    corners = {
        "s": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "d": ((0, -5), (5, 0), (0, 5), (-5, 0)),
        "t": ((0, -5), (5, 4), (-5, 4)),
    }[kind]
    return f'<path d="M{"L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners)}Z" fill="{colour}"/>'


def grid() -> Iterator[str]:
    """Lines and numbers of both axes."""
    for across in GRID[0]:
        x, _ = place(across, UP[0])
        yield f'<path class="l" d="M{x} {TOP}V{TOP + HEIGHT}" stroke-opacity="0.4"/>'
        yield text(int(x), TOP + HEIGHT + 16, f"{across:,}", "s", "middle")
    for up in GRID[1]:
        _, y = place(ACROSS[0], up)
        yield f'<path class="l" d="M{LEFT} {y}H{LEFT + WIDTH}" stroke-opacity="0.4"/>'
        yield text(LEFT - 6, int(y) + 4, f"{up:,}", "s", "end")
    yield text(LEFT, TOP - 8, "GFLOP/s", "s", "middle")
    yield text(LEFT + WIDTH // 2, TOP + HEIGHT + 34, "operations per byte read from memory", "s", "middle")


def legend() -> Iterator[str]:
    """Colours of machines and marks of cases."""
    x, y = LEFT + WIDTH + 20, TOP + 20
    for number, (machine, colour) in enumerate(COLOURS.items()):
        at = y + 18 * number
        yield f'<path d="M{x} {at - 4}h18" stroke="{colour}" stroke-width="2"/>{text(x + 26, at, machine)}'
    y += 18 * len(COLOURS) + 14
    for number, (of, kind) in enumerate(MARKS.items()):
        at = y + 18 * number
        yield mark(kind, x + 9, at - 4, "#444") + text(x + 26, at, of)


def roofline() -> str:
    """The picture."""
    body = [text(16, 24, "what two cores allow, and what weft reaches (SmolLM2-135M, bf16)", "t"), *grid()]
    body += [roof(machine) for machine in COLOURS]
    for machine, colour in COLOURS.items():
        body += [mark(MARKS[one.of], *place(one.intensity, one.gflop_per_s), colour) for one in points(machine)]
    return svg("roofline of four machines", LEFT + WIDTH + 220, TOP + HEIGHT + 50, [*body, *legend()])
