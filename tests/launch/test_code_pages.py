"""Code that a start ran through is left, runs again when it is needed, and what was written to stays."""

from __future__ import annotations

import ctypes
import mmap
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.code_pages import LEAST_BYTES, leave_code

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is tested is Linux's")

READ_AND_RUN = mmap.PROT_READ | mmap.PROT_EXEC
PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None)
LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@pytest.fixture
def code(tmp_path: Path) -> Iterator[mmap.mmap]:
    """A file that is mapped as a library's code is, and can still be written to."""
    file = tmp_path / "code with Anonymous: 0 kB in its name"
    file.write_bytes(b"file" * (LEAST_BYTES // 4))
    with (
        file.open("r+b") as opened,
        mmap.mmap(opened.fileno(), LEAST_BYTES, mmap.MAP_PRIVATE, READ_AND_RUN | mmap.PROT_WRITE) as mapped,
    ):
        yield mapped


def only_run(mapped: mmap.mmap) -> None:
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    assert LIBC.mprotect(address, LEAST_BYTES, READ_AND_RUN) == 0


def resident(name: str) -> int:
    """KiB of the mappings of files with this in their path."""
    smaps = Path("/proc/self/smaps").read_text()
    return sum(
        int(kib)
        for kib in re.findall(rf"^\S+ r.xp \S+ \S+ \S+ +/[^\n]*{name}[^\n]*\n(?:.*\n){{3}}Rss: +(\d+)", smaps, re.M)
    )


def test_code_that_was_read_is_left_and_comes_back(code: mmap.mmap) -> None:
    only_run(code)
    assert code[:] == b"file" * (LEAST_BYTES // 4)
    assert resident("code with") == LEAST_BYTES // 1024
    leave_code()
    assert resident("code with") == 0
    assert code[:] == b"file" * (LEAST_BYTES // 4)


def test_code_that_was_written_to_stays(code: mmap.mmap) -> None:
    code[PAGE : PAGE + 4] = b"trap"
    only_run(code)
    leave_code()
    assert code[PAGE : PAGE + 4] == b"trap"


def test_what_can_still_be_written_to_stays(code: mmap.mmap) -> None:
    assert code[:4] == b"file"
    before = resident("code with")
    assert before > 0
    leave_code()
    assert resident("code with") == before


def test_nothing_is_done_where_the_system_tells_no_mappings(tmp_path: Path) -> None:
    leave_code(tmp_path / "smaps")


LOOK = """
import re
import torch
from weft.code_pages import leave_code


def resident() -> int:
    return int(re.search(r"RssFile:\\s+(\\d+)", open("/proc/self/status").read())[1])


torch.manual_seed(0)
a = torch.randn(64, 64)
product, before = (a @ a).softmax(-1), resident()
leave_code()
print(before - resident(), bool(torch.equal((a @ a).softmax(-1), product)))
"""


def test_most_of_what_torch_was_imported_with_is_left() -> None:
    found = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=120)
    left, same = found.stdout.split()
    assert int(left) > 20 * 1024
    assert same == "True"
