"""Pairs of input and expected result for the readers of other engines' commands; random commands and layouts.

A result is one line that names every size which is not the plain one: `world 16 | tp 4 dp 4 | dense 16 lm_head 16 |
experts 16x1 slots 256 shared 16`. An open size is `?`. A refusal is `refused: ` and a part of its message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from hypothesis import strategies as st

from weft.parallel.layout import Layout, resolve
from weft.parallel.layout.counts import divisors
from weft.tools.dialects import registry
from weft.tools.dialects.base import Context, Reading
from weft.tools.dialects.flags import Table
from weft.tools.dialects.sizes import Sizes

CASES = Path(__file__).parents[1] / "tools" / "dialects" / "cases"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input. `result` is what `summary` gives, or several of them; `notes` are codes that must be there."""

    dialect: str
    group: str
    name: str
    text: str
    result: str | Sequence[str]
    notes: Sequence[str] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    variables: Sequence[str] = ()
    legal: Sequence[object] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    experts: int | None = None
    quiet: bool = False
    """No note above info."""

    def __str__(self) -> str:
        return f"{self.dialect}, {self.group}: {self.name}"


def summary(reading: Reading) -> str:
    """A reading in one line; every size is in it, by name or by being the plain one."""
    if reading.refused is not None:
        return f"refused: {reading.refused.message}"
    assert reading.sizes is not None
    parts = [_world(reading.sizes), _attention(reading.sizes), _modules(reading.sizes), _experts(reading.sizes)]
    return " | ".join(part for part in parts if part)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "?" if value is None else str(value)


def _words(values: Mapping[str, object], plain: Mapping[str, object]) -> str:
    return " ".join(
        f"{name} {_shown(value)}" for name, value in values.items() if name not in plain or value != plain[name]
    )


def _world(sizes: Sizes) -> str:
    values = {"world": sizes.world, "nodes": sizes.nodes, "replicas": sizes.replicas, "stages": sizes.stages}
    layers = {"layers": sizes.layers} if sizes.layers else {}
    return _words({**values, **layers}, {"nodes": 1, "replicas": 1, "stages": 1})


def _attention(sizes: Sizes) -> str:
    values = {"tp": sizes.tp, "dp": sizes.dp, "cp": sizes.cp, "kv": sizes.kv_split}
    return _words(values, {"dp": 1, "cp": 1, "kv": 1})


def _modules(sizes: Sizes) -> str:
    values = {
        "o_proj": sizes.o_proj,
        "dense": sizes.dense,
        "embedding": sizes.embedding,
        "lm_head": sizes.lm_head,
    }
    return _words(values, dict.fromkeys(values, sizes.tp))


def _experts(sizes: Sizes) -> str:
    if not sizes.moe:
        return ""
    values = {"slots": sizes.slots, "shared": sizes.shared, "dispatch": sizes.dispatch, "balance": sizes.policy}
    if sizes.policy != "none":
        values["interval"] = sizes.interval
    size = f"experts {_shown(sizes.expert_tp)}x{_shown(sizes.expert_ep)}"
    words = _words(values, {"shared": sizes.tp, "dispatch": "auto", "balance": "none"})
    return f"{size} {words}".strip()


@cache
def all_cases() -> tuple[Case, ...]:
    """The cases of every file `cases/<dialect>/<group>.yaml`."""
    return tuple(
        Case(dialect=path.parent.name, group=path.stem, **case)
        for path in sorted(CASES.glob("*/*.yaml"))
        for case in yaml.safe_load(path.read_text())
    )


def case_text(dialect: str, group: str, name: str) -> str:
    """The input of one case."""
    (case,) = (case for case in all_cases() if (case.dialect, case.group, case.name) == (dialect, group, name))
    return case.text


def read_case(case: Case) -> list[Reading]:
    """The readings of a case, its dialect recognized."""
    return registry.read(case.text, None, Context(settings=case.settings, experts=case.experts))


def check(case: Case) -> None:
    """Reads a case without naming its dialect, and holds everything that it states against the readings."""
    readings = read_case(case)
    assert {reading.dialect for reading in readings} == {case.dialect}
    wanted = [case.result] if isinstance(case.result, str) else list(case.result)
    assert len(readings) == len(wanted)
    for reading, result in zip(readings, wanted, strict=True):
        check_result(reading, result)
        check_shape(reading)
    codes = {note.code for reading in readings for note in reading.notes}
    assert set(case.notes) <= codes, codes
    first = readings[0]
    assert {name: first.options.get(name) for name in case.options} == dict(case.options)
    assert set(case.variables) == {name for reading in readings for name in reading.variables}
    if case.legal:
        assert first.refused is not None and first.refused.legal == tuple(case.legal)
    if case.quiet:
        assert [note for reading in readings for note in reading.notes if note.level != "info"] == []


def check_result(reading: Reading, result: str) -> None:
    """A refusal is matched by a part of its message, anything else as a whole."""
    found = summary(reading)
    if result.startswith("refused: "):
        assert found.startswith("refused: ") and result.removeprefix("refused: ") in found, found
    else:
        assert found == result, found


def check_shape(reading: Reading) -> None:
    """What holds for every reading: a layout, or open sizes, or a refusal with its reason; places inside the text."""
    document = reading.layout_document()
    if reading.refused is not None:
        assert reading.refused.message and reading.layout is None and document is None
        assert any(note.level == "error" for note in reading.notes)
    else:
        assert document is not None and reading.sizes is not None
        assert (reading.layout is None) == bool(reading.sizes.open)
        assert "null" not in str(document.get("world"))
    for note in reading.notes:
        assert note.message and (note.where is None or note.where.line >= 1 and note.where.column >= 1)


VALUES = (
    "1",
    "2",
    "3",
    "4",
    "8",
    "16",
    "0",
    "-1",
    "abc",
    "8.0",
    "$TP",
    "${X:-4}",
    "$(nproc)",
    "$((2*N))",
    "<N>",
    "...",
)
STRANGE = (
    '{"a": 1}',
    '\'{"a":',
    '"',
    "'",
    "\\\n",
    "\\ \n",
    "# note\n",
    "--",
    "=",
    "`x`",
    "${",
    "&&",
    "|",
    "> f",
    "<<EOF",
)
MODELS = ("deepseek-ai/DeepSeek-V3", "meta-llama/Llama-3.1-8B", "$MODEL", "some/Unknown", "mistralai/Mixtral-8x7B")


def commands(program: str, model: str, table: Table) -> st.SearchStrategy[str]:
    """Commands of an engine: mostly its sizes with possible values, some flags of any kind, some nonsense."""
    sizes = [name for name, flag in table.names.items() if flag.size]
    value = st.one_of(st.sampled_from(VALUES), st.integers(-2, 70).map(str), st.text(max_size=6))
    flag = st.one_of(st.sampled_from(sizes), st.sampled_from(sorted(table.names)))
    given = st.tuples(flag, st.sampled_from(("=", " ", " \\\n  ")), value).map("".join)
    part = st.one_of(given, given, given, flag, st.sampled_from(STRANGE), st.text(max_size=12))
    lead = st.sampled_from((program, f"$ {program}", f"nohup {program}", f"srun bash -c '{program}", ""))
    body = st.lists(part, max_size=10).map(" ".join)
    return st.tuples(lead, st.sampled_from(MODELS).map(lambda name: f" {model}{name} "), body).map("".join)


@st.composite
def layouts(draw: st.DrawFn, stages: bool = True) -> Layout:
    """Any layout: every module with a size of its own that divides the stage."""
    tp, dp, cp = (draw(st.sampled_from(sizes)) for sizes in ((1, 2, 3, 4, 8), (1, 2, 4, 8), (1, 1, 1, 2)))
    block = st.sampled_from(divisors(tp * dp * cp))
    pipeline = draw(st.sampled_from((1, 1, 2, 4))) if stages else 1
    given: dict[str, object] = {
        "attention.tp": tp,
        "attention.dp": dp,
        "attention.cp": cp,
        "attention.kv_split": draw(st.sampled_from(divisors(tp))),
        "pipeline.stages": pipeline,
        "replicas": draw(st.sampled_from((1, 1, 2))),
        "nodes": draw(st.sampled_from((1, 1, pipeline, dp))),
    }
    for module in ("o_proj", "dense", "embedding", "lm_head"):
        given[f"{module}.tp"] = draw(st.one_of(st.just(tp), block))
    experts = draw(st.sampled_from((0, 64, 256)))
    if experts:
        given |= _drawn_experts(draw, tp, tp * dp * cp, experts)
    if given["nodes"] and (tp * dp * cp * pipeline) % int(str(given["nodes"])):
        given["nodes"] = 1
    return resolve(given, num_experts=experts)


def _drawn_experts(draw: st.DrawFn, tp: int, stage: int, experts: int) -> dict[str, object]:
    expert_tp = draw(st.sampled_from(divisors(stage)))
    ep = draw(st.sampled_from(divisors(stage // expert_tp)))
    least = -(-experts // ep) * ep
    return {
        "experts.tp": expert_tp,
        "experts.ep": ep,
        "experts.slots": least + ep * draw(st.sampled_from((0, 0, 1))),
        "experts.dispatch": draw(st.sampled_from(("auto", "all_gather", "all_to_all"))),
        "experts.balance.policy": draw(st.sampled_from(("none", "none", "global", "hierarchical"))),
        "shared_experts.tp": draw(st.sampled_from((tp, 1, stage))),
    }


def check_written(layout: Layout, dialect: str, num_experts: int) -> bool:
    """What a writer gives reads back as the layout, or a note says what it cannot say; True if it said it all."""
    written = registry.write(layout, dialect, {"num_experts": num_experts} if num_experts else {})
    readings = registry.read(written.text, dialect, Context(experts=num_experts))
    silent = not [note for note in written.notes if note.code == "cannot-say"]
    if silent:
        assert [reading.layout for reading in readings] == [layout]
    else:
        assert [reading.layout for reading in readings] != [layout]
    return silent
