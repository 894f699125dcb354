"""C++ has the operations, indices, kernels and records that their declaration in Python says."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.compute.ops.generate import headers
from weft.compute.ops.operations.declare import F, N, P
from weft.compute.ops.operations.table import EXCHANGES, MODULES, OPS, Op

HEADERS = headers()


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_a_header_is_what_the_generator_writes(path: Path) -> None:
    assert path.read_text() == HEADERS[path], "run `python -m weft.compute.ops.generate`"


def test_every_operation_has_a_number_of_its_own_and_every_index_one_meaning() -> None:
    declared = [op for owner in Op.__bases__ for op in vars(owner).values() if isinstance(op, int)]
    assert sorted(declared) == list(range(1, len(OPS) + 1)) and {op.name for op in OPS.values()} <= set(dir(Op))
    assert {op.name for op in EXCHANGES} == {
        "ALL_REDUCE",
        "ALL_GATHER",
        "REDUCE_SCATTER",
        "ALL_TO_ALL",
        "ROUTED",
        "RECV",
        "SEND",
        "PARTIALS",
    }
    meanings: dict[str, set[int]] = {}
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, N | P | F):
                meanings.setdefault(name, set()).add(id(value))
    assert all(len(found) == 1 for found in meanings.values())
