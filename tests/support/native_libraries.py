"""The C++ libraries that tests need. Without a compiler a test is skipped; a library that does not build fails it.

`python -m tests.support.native_libraries` compiles all that the usual version runs, as many at a time as there are
cores; what is not there yet when a test needs it is compiled then.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from weft.base.errors import ConfigError
from weft.compute.native import build, isa, libraries

SHARED = ("avx512vnni", "avx512")
"""AVX-512 without bf16, whose code others share."""


def tried(variants: Iterable[str]) -> list[Any]:
    """Parameters of tests: those of `SHARED` in the long version only, but for the best that this CPU runs. Of a run
    with WEFT_NATIVE_ISA, that variant alone."""
    alone = os.environ.get("WEFT_NATIVE_ISA")
    return [
        pytest.param(each, marks=pytest.mark.long) if each in SHARED and each != isa.runnable()[0] else each
        for each in variants
        if not alone or each == alone
    ]


TRIED = tuple(f"step-{each}" for each in tried(isa.runnable()) if isinstance(each, str))
"""Variants that the usual version runs."""


def built(names: Sequence[str]) -> tuple[build.BuildStatus, ...]:
    """As `build.ensure_built`, but no two workers of a run compile the same: the second one waits for the first."""
    if all(map(libraries.find, names)):
        return build.ensure_built(names)
    with open(build.__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return build.ensure_built(names)


def need(*sources: str) -> None:
    """Builds `sources` ("comm", "step") for this machine where that was not done yet."""
    missing = [status for status in built([libraries.chosen(each) for each in sources]) if not status.path]
    if missing and build.find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    assert not missing, "; ".join(f"{status.name}: {status.reason}" for status in missing)


if __name__ == "__main__":
    try:
        sys.exit(build.report(build.ensure_built(tuple(dict.fromkeys((*libraries.needed(), *TRIED))))))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
