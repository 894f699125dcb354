"""What every dialect must hold, whichever engine it is for: `check_dialect` runs it for one name."""

from __future__ import annotations

import re

from tests.support.dialects import check_shape, check_written
from weft.parallel.layout import Layout, resolve
from weft.tools.dialects import registry

STRANGE = (
    "",
    "hello",
    "ls -la --color",
    "a: [",
    "{",
    '{"a": 1}',
    "--",
    "'",
    "- a\n- b\n",
    "$TP",
    "\x00",
    "x: 1\n" * 50,
)
LAYOUTS: tuple[Layout, ...] = tuple(
    resolve(given, num_experts=experts)
    for given, experts in (
        ({"attention.tp": 1}, 0),
        ({"attention.tp": 4}, 0),
        ({"attention.tp": 4, "pipeline.stages": 2}, 0),
        ({"attention.tp": 2, "attention.dp": 4, "experts.ep": 8}, 64),
        ({"attention.tp": 8, "lm_head.tp": 4, "nodes": 2}, 0),
    )
)


def check_dialect(name: str) -> None:
    """Name and programs, recognition, texts that are no engine's, and layouts that are written and read back."""
    dialect = registry.dialect(name)
    assert dialect.name == name and dialect.title
    assert all(re.compile(word) for program in dialect.programs for word in program)
    assert dialect.recognizes("") == 0
    assert all(0 <= dialect.recognizes(text) <= 1 for text in STRANGE)
    for text in STRANGE:
        for reading in registry.read(text, name):
            check_shape(reading)
    _check_written(name)
    _check_others(name)


def _check_written(name: str) -> None:
    """A plain layout can be said and is read back without the name; what cannot be said of others is a note."""
    for layout in LAYOUTS:
        check_written(layout, name, layout.experts.slots if layout.experts else 0)
    plain = resolve({"attention.tp": 4}, num_experts=0)
    written = registry.write(plain, name, {"model": "meta-llama/Llama-3.1-8B", "max_num_seqs": 8})
    assert [note.message for note in written.notes] == []
    (reading,) = registry.read(written.text)
    assert (reading.dialect, reading.layout) == (name, plain)
    assert reading.options["max_num_seqs"] == 8
    unknown = registry.write(plain, name, {"model": "meta-llama/Llama-3.1-8B", "no_such_option": 3})
    assert [note.code for note in unknown.notes] == ["cannot-say"]


def _check_others(name: str) -> None:
    """A command of another engine is refused, with the name of its dialect."""
    for other, text in (("vllm", "vllm serve m -tp 2"), ("sglang", "python -m sglang.launch_server --tp 2")):
        if other != name:
            (reading,) = registry.read(text, name)
            assert reading.refused is not None and reading.refused.legal == (other,)
