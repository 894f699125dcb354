"""Limits of processes, threads and sizes: none is raised, and one that is too low is named with what is needed."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.base.errors import ConfigError
from weft.base.machine import task_limits
from weft.base.machine.rlimits import least

LIMITS = st.one_of(st.integers(0, 1 << 62), st.just(resource.RLIM_INFINITY))


@given(st.lists(LIMITS, max_size=4))
def test_infinity_is_above_all_numbers(limits: list[int]) -> None:
    finite = [each for each in limits if each != resource.RLIM_INFINITY]
    assert least(*limits) == (min(finite) if finite else resource.RLIM_INFINITY)


LOWERED = """
import resource, sys
from weft.base.machine.rlimits import lower
kind, soft, hard, wanted, wanted_hard = (int(word) for word in sys.argv[1:])
resource.setrlimit(kind, (soft, hard))
lower(kind, wanted, wanted_hard)
print(*resource.getrlimit(kind))
"""


@pytest.mark.parametrize("kind", [resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE])
@pytest.mark.parametrize(
    ("inherited", "wanted", "found"),
    [
        ((100, 200), (50, resource.RLIM_INFINITY), "50 200"),
        ((100, 200), (150, 150), "100 150"),
        ((100, 200), (300, 300), "100 200"),
        ((100, 200), (60, 80), "60 80"),
    ],
)
def test_a_limit_is_never_raised(kind: int, inherited: tuple[int, int], wanted: tuple[int, int], found: str) -> None:
    words = [str(each) for each in (kind, *inherited, *wanted)]
    done = subprocess.run(
        [sys.executable, "-c", LOWERED, *words], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == found.split()


@pytest.fixture
def groups(tmp_path: Path) -> tuple[Path, Path]:
    own = tmp_path / "own"
    own.write_text("8:pids:/unit/a\n0::/slice/b\n")
    for folder, most, taken in (("pids/unit", "max", "70"), ("pids/unit/a", "40", "31"), ("slice/b", "90", "2")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "pids.max").write_text(most + "\n")
        (tmp_path / folder / "pids.current").write_text(taken + "\n")
    return tmp_path, own


def test_the_least_of_all_groups_counts(groups: tuple[Path, Path]) -> None:
    assert task_limits.tasks_left(*groups) == (9, "the control group's limit of processes (pids.max 40)")


def test_too_few_tasks_are_refused_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_limits, "tasks_left", lambda: (3, "the limit of processes (ulimit -u 8)"))
    monkeypatch.setattr(task_limits, "_own", lambda: 4)
    with pytest.raises(ConfigError, match=r"ulimit -u 8\) leaves 7 .* need 30"):
        task_limits.check([1, 2, 3])
    monkeypatch.setattr(task_limits, "_own", lambda: 27)
    task_limits.check([1, 2, 3])


def test_errors_of_the_system_are_explained_and_others_are_not() -> None:
    try:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as inner:
            raise RuntimeError("a library failed") from inner
    except RuntimeError as outer:
        found = task_limits.explained(outer)
    assert found is not None and found.field == "ulimit -n"
    assert task_limits.explained(RuntimeError("can't start new thread")) is not None
    assert task_limits.explained(OSError(errno.ENOENT, "No such file")) is None
    assert task_limits.explained(ValueError("start")) is None
