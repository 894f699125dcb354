"""Limits of control groups, of both versions: the least of the process's own group, those above it, and the root."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.base.machine.control_groups import cpu_quota, memory_left

TWO, ONE = "memory.max memory.current", "memory.limit_in_bytes memory.usage_in_bytes"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Membership of both versions, as a hybrid system shows it."""
    own = tmp_path / "own"
    own.write_text("7:cpu,cpuacct:/unit/a\n4:memory:/unit/a\n1:name=systemd:/other\n0::/slice/b:c\n")
    return own


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def put_memory(folder: Path, names: str, limit: str, used: int) -> None:
    put(folder, memory__stat="anon 1\ninactive_file 7\ntotal_inactive_file 200")
    for name, text in zip(names.split(), (limit, str(used)), strict=True):
        (folder / name).write_text(text + "\n")


@pytest.mark.parametrize("place", ["", "slice", "slice/b:c"])
def test_memory_of_version_two(place: str, tmp_path: Path, own: Path) -> None:
    put_memory(tmp_path / place, TWO, "1000", 400)
    assert memory_left(tmp_path, own) == 607
    put_memory(tmp_path / place, TWO, "max", 400)
    assert memory_left(tmp_path, own) is None


@pytest.mark.parametrize("place", ["memory", "memory/unit", "memory/unit/a"])
def test_memory_of_version_one(place: str, tmp_path: Path, own: Path) -> None:
    put_memory(tmp_path / place, ONE, "1000", 400)
    assert memory_left(tmp_path, own) == 800


def test_the_least_of_all_groups_counts(tmp_path: Path, own: Path) -> None:
    put_memory(tmp_path, TWO, "9000", 400)
    put_memory(tmp_path / "slice", TWO, "1000", 980)
    put_memory(tmp_path / "slice" / "b:c", TWO, "5000", 20)
    put_memory(tmp_path / "memory" / "other", ONE, "1", 0)
    assert memory_left(tmp_path, own) == 27


@pytest.mark.parametrize("place", ["", "slice", "slice/b:c"])
@pytest.mark.parametrize(("text", "quota"), [("max 100000", None), ("150000 100000", 1.5)])
def test_time_of_version_two(place: str, text: str, quota: float | None, tmp_path: Path, own: Path) -> None:
    put(tmp_path / place, cpu__max=text)
    assert cpu_quota(tmp_path, own) == quota


@pytest.mark.parametrize(("quota", "found"), [("-1", None), ("250000", 2.5)])
def test_time_of_version_one(quota: str, found: float | None, tmp_path: Path, own: Path) -> None:
    put(tmp_path / "cpu" / "unit", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert cpu_quota(tmp_path, own) == found


def test_without_groups_nothing_is_limited(tmp_path: Path, own: Path) -> None:
    assert memory_left(tmp_path, own) is None and cpu_quota(tmp_path, own) is None
    assert memory_left(tmp_path, tmp_path / "none") is None


def test_a_group_outside_of_what_is_seen_is_left_out(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/../../elsewhere\n")
    put(tmp_path / "elsewhere", cpu__max="1 1")
    assert cpu_quota(tmp_path / "group" / "one", own) is None
