"""A process's own large memory: zeros, on a large page, and large pages are asked for where one fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.compute.native.system_pages import LARGE_PAGE
from weft.compute.ops.native.large_pages import large_pages

SMAPS = Path("/proc/self/smaps")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def flags_at(address: int) -> list[str]:
    """What the system has noted of the mapping that holds `address` (proc(5), VmFlags)."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        if line.startswith("VmFlags:") and inside:
            return line.split()[1:]
        begin, dash, end = line.partition(" ")[0].partition("-")
        if dash and not begin.endswith(":"):
            inside = int(begin, 16) <= address < int(end, 16)
    return []


@pytest.mark.skipif(not SETTING.exists(), reason="this system has no large pages")
@pytest.mark.parametrize(("nbytes", "whole"), [(LARGE_PAGE - 1, 0), (LARGE_PAGE, 1), (3 * LARGE_PAGE + 5, 3)])
def test_whole_large_pages_are_asked_for(nbytes: int, whole: int) -> None:
    memory = large_pages(nbytes)
    assert len(memory) == nbytes and not memory.any() and memory.data_ptr() % LARGE_PAGE == 0
    pages = range(memory.data_ptr(), memory.data_ptr() + nbytes, LARGE_PAGE)
    assert [("hg" in flags_at(page)) for page in pages] == [True] * whole + [False] * (len(pages) - whole)
