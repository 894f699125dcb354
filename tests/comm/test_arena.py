"""Rooms: what one rank's process puts into its own, another's finds at the same address; where that cannot be it says
why."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.comm.shm import arena as arena_module
from weft.comm.shm.arena import SharedArena
from weft.comm.shm.region import Region, read_records
from weft.errors import ConfigError
from weft.native.system_pages import LARGE_PAGE, SystemPages
from weft.ops.native.pages import ArenaPages

ROOT = Path(__file__).resolve().parents[2]
ENTER = """
import ctypes, resource, sys
from weft.comm.shm.region import Region
from weft.comm.shm.arena import NoArenaError, SharedArena
fd, size, rank, limit = map(int, sys.argv[1:5])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    arena = SharedArena.enter(Region(fd, size), rank)
except NoArenaError as reason:
    sys.exit(f"none: {reason}")
"""
WRITE = """
first, second, far = arena.take(100), arena.take(5 << 20), arena.reserve(10)
ctypes.memmove(first, b"here", 4)
ctypes.memmove(second + (5 << 20) - 4, b"last", 4)
ctypes.memmove(far, b"far.", 4)
print(first, second + (5 << 20) - 4, far)
"""
READ = "print(*(ctypes.string_at(int(at), 4).decode() for at in sys.argv[5:]))"


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region.create(3, [(0, 1, 2)])
    yield made
    made.close()


def entered(region: Region, rank: int, script: str, *words: str, limit: int = 0) -> tuple[list[str], str]:
    """What a process of its own says that has entered as `rank`; its errors."""
    arguments = map(str, (region.fd, region.size, rank, limit))
    command = [sys.executable, "-c", ENTER + script, *arguments, *words]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, pass_fds=[region.fd], env=environ, capture_output=True, text=True, timeout=60)
    return done.stdout.split(), done.stderr


def test_every_rank_finds_the_same_at_the_same_address(region: Region) -> None:
    places, errors = entered(region, 1, WRITE)
    assert not errors and len({int(at) // LARGE_PAGE for at in places}) == 3
    for rank in range(3):
        assert entered(region, rank, READ, *places) == (["here", "last", "far."], "")
    others, _ = entered(region, 2, WRITE)
    assert {int(at) for at in others}.isdisjoint(map(int, places))


def test_arenas_take_no_memory_before_they_are_used(region: Region) -> None:
    info = region.info()
    assert info.arena_bytes >= 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert os.fstat(region.fd).st_size == info.arenas_at + 3 * info.arena_bytes
    assert os.fstat(region.fd).st_blocks * 512 <= region.size + (1 << 20)
    assert len(read_records(region.fd)) == 3


@pytest.mark.parametrize("gib", [32, 1 << 20])
def test_a_process_whose_addresses_are_limited_has_none(region: Region, gib: int) -> None:
    """Few would be left for all else."""
    said, errors = entered(region, 0, WRITE, limit=gib << 30)
    assert not said and errors == "none: addresses are limited (ulimit -v), of which ranks' arenas take many\n"


def test_a_place_that_is_taken_is_told(region: Region) -> None:
    said, errors = entered(region, 0, "SharedArena.enter(Region(fd, size), rank)")
    assert not said and "GiB of addresses for ranks' arenas: File exists" in errors


def test_a_system_that_lets_no_file_be_so_long_has_none() -> None:
    script = """
import resource
from weft.comm.shm.region import Region
from weft.comm.shm.arena import SharedArena
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
region = Region.create(2, [(0, 1)])
print(region.info().arena_bytes)
SharedArena.enter(region, 0)
"""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n" and "must not be as long as ranks' arenas (ulimit -f)" in done.stderr


@pytest.mark.parametrize(
    ("other", "shared", "refused", "has"),
    [
        ("[always] madvise never", "always advise [never]", 0, True),
        ("always [madvise] never", "always advise [never]", errno.EINVAL, False),
        ("always madvise [never]", "always advise [never]", errno.EINVAL, True),
        ("always [madvise] never", "always [advise] never", errno.EINVAL, True),
        ("always [madvise] never", "always advise [never]", errno.ENOMEM, True),
        ("always [madvise] never", None, errno.EINVAL, False),
    ],
)
def test_small_pages_are_no_arena_where_other_memory_has_large_ones(
    other: str, shared: str | None, refused: int, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older system refuses the request; another one may have no large page left at the moment."""
    for name, text in (("_OTHER", other), ("_SHARED", shared)):
        monkeypatch.setattr(arena_module, name, tmp_path / name)
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(SystemPages, "enlarge", lambda system, address: refused)
    with mmap.mmap(-1, LARGE_PAGE) as memory:
        at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert SharedArena(at, LARGE_PAGE).has_large_pages == has


@pytest.fixture
def arena() -> SharedArena:
    memory = mmap.mmap(-1, 10 * LARGE_PAGE)
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))  # kept alive by this name
    found = SharedArena(at + -at % LARGE_PAGE, 8 * LARGE_PAGE)
    found.memory = memory  # type: ignore[attr-defined]
    return found


def test_what_is_given_back_is_taken_again(arena: SharedArena) -> None:
    first, mark = arena.take(10), arena.taken
    assert first % 64 == 0 and mark == first + 10
    second = arena.take(3 * LARGE_PAGE)
    assert second == first + 64
    ctypes.memset(first, 7, 10)
    ctypes.memset(second, 7, 3 * LARGE_PAGE)
    arena.give_back(mark)
    assert arena.take(1) == second
    assert ctypes.string_at(second, 3 * LARGE_PAGE) == bytes(3 * LARGE_PAGE)
    assert ctypes.string_at(first, 10) == b"\7" * 10


def test_a_full_room_refuses(arena: SharedArena) -> None:
    arena.take(4 * LARGE_PAGE)
    with pytest.raises(MemoryError, match="1 bytes of an arena that has 0 left"):
        arena.take(1)
    apart = arena.reserve(1), arena.reserve(3 * LARGE_PAGE)
    assert apart[1] - apart[0] == LARGE_PAGE and apart[0] % LARGE_PAGE == 0
    with pytest.raises(MemoryError, match="1 bytes of an arena that has 0 left"):
        arena.reserve(1)


def test_more_than_the_machine_has_is_refused(arena: SharedArena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena_module, "memory_of_machine", lambda: 100)
    with pytest.raises(MemoryError, match="101 bytes of an arena that has 100 left"):
        arena.reserve(101)
    with pytest.raises(ConfigError, match="the system refuses 0.0 MiB: 101 bytes of an arena"):
        ArenaPages(arena).reserve(101)
