"""What the step library's sources say that tests go by, read from them. Knows no library."""

from __future__ import annotations

import re
from pathlib import Path

import weft.native

STEP = Path(weft.native.__file__).parent / "step"


def _found(file: str, pattern: str) -> list[str]:
    found = re.findall(pattern, (STEP / file).read_text(), re.S)
    assert found, f"{file} has no {pattern}"
    return found


(_COUNT,) = _found("pointwise.h", r"kManyNorms = (\d+);")
MANY_NORMS = int(_COUNT)
"""Own rows of a dealt norm from which on others may take some."""
(_CASES,) = _found("kernels.h", r"inline bool deals_units\(.*?switch(.*?)return true")
DEALS_UNITS = frozenset(re.findall(r"case (\w+):", _CASES))
"""Names of the ops of which others may take units in every step."""
