"""Code that a start ran through is left, runs again when it is needed, and what was written to stays."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from weft.code_pages import LEAST_BYTES, leave_code

READ_AND_RUN = mmap.PROT_READ | mmap.PROT_EXEC
PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None)
LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
AS_IT_WAS = b"file" * (LEAST_BYTES // 4)

MakeCode = Callable[..., mmap.mmap]


@pytest.fixture
def make_code() -> Iterator[MakeCode]:
    """Makes a file that is mapped as a library's code is, and can still be written to."""
    with ExitStack() as all_of_them:

        def make(name: str = "code", size: int = LEAST_BYTES, flags: int = mmap.MAP_PRIVATE) -> mmap.mmap:
            file = os.memfd_create(name)
            all_of_them.callback(os.close, file)
            os.write(file, AS_IT_WAS[:size])
            mapped = mmap.mmap(file, size, flags, READ_AND_RUN | mmap.PROT_WRITE)
            return all_of_them.enter_context(mapped)

        yield make


def address(mapped: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))


def only_run(mapped: mmap.mmap) -> None:
    assert LIBC.mprotect(address(mapped), len(mapped), READ_AND_RUN) == 0


def resident(mapped: mmap.mmap) -> int:
    """Pages of the mapping that count as this process's memory."""
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(address(mapped) // PAGE * 8)
        entries = pages.read(len(mapped) // PAGE * 8)
    return sum(int.from_bytes(entries[at : at + 8], sys.byteorder) >> 63 for at in range(0, len(entries), 8))


def test_code_that_was_read_is_left_and_comes_back(make_code: MakeCode) -> None:
    code = make_code()
    only_run(code)
    assert code[:] == AS_IT_WAS
    assert resident(code) == LEAST_BYTES // PAGE
    leave_code()
    assert resident(code) == 0
    assert code[:] == AS_IT_WAS


def test_code_that_was_written_to_stays(make_code: MakeCode) -> None:
    code = make_code()
    code[PAGE : PAGE + 4] = b"trap"
    only_run(code)
    leave_code()
    assert code[PAGE : PAGE + 4] == b"trap"


@pytest.mark.parametrize("size", [LEAST_BYTES, LEAST_BYTES - PAGE])
def test_what_can_still_be_written_to_stays_and_so_does_what_is_small(make_code: MakeCode, size: int) -> None:
    code = make_code(size=size)
    if size < LEAST_BYTES:
        only_run(code)
    assert code[:] == AS_IT_WAS[:size]
    leave_code()
    assert resident(code) == size // PAGE


def test_what_others_share_stays(make_code: MakeCode) -> None:
    code = make_code(flags=mmap.MAP_SHARED)
    only_run(code)
    assert code[:] == AS_IT_WAS
    leave_code()
    assert resident(code) == LEAST_BYTES // PAGE


@pytest.mark.parametrize("end_of_line", ["\n", "\r", "\x85", "\u2028"])
def test_a_name_does_not_make_a_mapping(make_code: MakeCode, end_of_line: str) -> None:
    """Memory of nobody's file stands where a file's name says that code does."""
    with mmap.mmap(-1, LEAST_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as kept:
        kept[:] = AS_IT_WAS
        begin = address(kept)
        make_code(f"x{end_of_line}{begin:x}-{begin + LEAST_BYTES:x} r-xp 0 0:1 5 /y", PAGE)
        leave_code()
        assert kept[:] == AS_IT_WAS


def test_nothing_is_done_where_the_system_does_not_tell(make_code: MakeCode, tmp_path: Path) -> None:
    code = make_code()
    only_run(code)
    assert code[:] == AS_IT_WAS
    leave_code(tmp_path)
    (tmp_path / "maps").write_bytes(Path("/proc/self/maps").read_bytes())
    leave_code(tmp_path)
    (tmp_path / "pagemap").write_bytes(b"")
    leave_code(tmp_path)
    assert resident(code) == LEAST_BYTES // PAGE


PRESENT, SWAPPED, OF_THE_FILE = 0x80, 0x40, 0x20


@pytest.mark.parametrize(
    ("kind", "stays"),
    [(PRESENT | OF_THE_FILE, False), (0, False), (PRESENT, True), (SWAPPED, True), (SWAPPED | OF_THE_FILE, True)],
)
def test_a_page_of_its_own_or_swapped_keeps_its_mapping(
    make_code: MakeCode, tmp_path: Path, kind: int, stays: bool
) -> None:
    code = make_code()
    only_run(code)
    assert code[:] == AS_IT_WAS
    maps = Path("/proc/self/maps").read_bytes().splitlines(keepends=True)
    (tmp_path / "maps").write_bytes(next(line for line in maps if line.startswith(f"{address(code):x}-".encode())))
    entries = [(PRESENT | OF_THE_FILE) << 56] * (LEAST_BYTES // PAGE)
    entries[7] = kind << 56
    with (tmp_path / "pagemap").open("wb") as pages:
        pages.seek(address(code) // PAGE * 8)
        pages.write(b"".join(entry.to_bytes(8, sys.byteorder) for entry in entries))
    leave_code(tmp_path)
    assert resident(code) == (LEAST_BYTES // PAGE if stays else 0)


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
