"""Building and finding the C++ libraries: never stale, never half written, never silent about why there is none."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.native_libraries import TRIED, built
from weft.base.errors import ConfigError
from weft.compute.native import build, isa, libraries

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n'

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources of its own, with a cache of its own."""
    sources = tmp_path / "native"
    sources.mkdir()
    (sources / "answer.h").write_text("#define ANSWER 42\n")
    (sources / "small.cpp").write_text('#include "answer.h"\n' + SOURCE)
    monkeypatch.setattr(libraries, "SOURCES", sources)
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WEFT_NATIVE", raising=False)
    monkeypatch.delenv("WEFT_NATIVE_ISA", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return sources


def test_each_header_of_a_copy_of_the_sources_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit in any folder, the deepest included, and a move from one folder to another, give other names."""
    kept = shutil.ignore_patterns("_build", "__pycache__")
    copy = Path(shutil.copytree(libraries.SOURCES, tmp_path / "native", ignore=kept))
    deepest = max(copy.rglob("*.h"), key=lambda path: len(path.parts))
    assert len(deepest.relative_to(copy).parts) >= 2
    monkeypatch.setattr(libraries, "SOURCES", copy)
    names = ("comm", f"step-{isa.chosen()}")
    found = [tuple(map(libraries.stem, names))]
    for path in {header.parent: header for header in (*copy.rglob("*.h"), deepest)}.values():
        path.write_text(path.read_text() + "// changed\n")
        found.append(tuple(map(libraries.stem, names)))
    deepest.rename(copy / deepest.name)
    found.append(tuple(map(libraries.stem, names)))
    for stems in zip(*found, strict=True):
        assert len({*stems}) == len(found)


def answer() -> int:
    library = libraries.load("small")
    assert isinstance(library, ctypes.CDLL)
    return int(library.answer())


@needs_compiler
def test_builds_once_and_loads(folder: Path) -> None:
    (status,) = build.ensure_built()
    assert (status.name, status.state) == ("small", "built")
    assert answer() == 42
    assert libraries.missing_reason("small") == ""
    (again,) = build.ensure_built()
    assert (again.state, again.path) == ("current", status.path)


@needs_compiler
def test_what_an_inline_function_keeps_is_each_library_s_own(folder: Path) -> None:
    """Variants of one library in one process would else run each other's tables of functions."""
    counted = "inline int up() { static int n = 0; return ++n; }\n" + SOURCE.replace("ANSWER", "up()")
    (folder / "small.cpp").write_text(counted)
    (folder / "other.cpp").write_text(counted)
    build.ensure_built()
    both = [libraries.load(name) for name in ("small", "other")]
    assert [library and library.answer() for library in both] == [1, 1]


@needs_compiler
@pytest.mark.parametrize("changed", ["small.cpp", "answer.h"])
def test_a_changed_source_is_never_served_by_the_old_file(folder: Path, changed: str) -> None:
    (first,) = build.ensure_built()
    (folder / changed).write_text((folder / changed).read_text() + "// changed\n")
    assert libraries.load("small") is None
    assert libraries.missing_reason("small") == "not built; run: python -m weft.compute.native.build"
    (second,) = build.ensure_built()
    assert second.state == "built" and second.path != first.path
    assert answer() == 42
    assert [path.name for path in (folder / "_build").iterdir()] == [second.path.name if second.path else ""]


@needs_compiler
def test_another_cpu_s_file_is_neither_loaded_nor_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here,) = build.ensure_built()
    monkeypatch.setattr(libraries, "_cpu_hash", lambda: "0ther0ne")
    assert libraries.load("small") is None
    (there,) = build.ensure_built()
    assert here.path and there.path and here.path.exists() and there.path.exists()


@needs_compiler
def test_another_compiler_builds_anew(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (first,) = build.ensure_built()
    compiler = build.find_compiler()
    assert compiler
    wrapper = tmp_path / "other c++"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which(compiler[0])} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{wrapper}'")
    (second,) = build.ensure_built()
    assert second.state == "built" and second.path != first.path
    assert answer() == 42


@needs_compiler
def test_it_is_said_that_a_compiler_begins(folder: Path) -> None:
    said: list[str] = []
    build.ensure_built(say=said.append)
    assert len(said) == 1 and "compiling small for this CPU" in said[0]
    build.ensure_built(say=said.append)
    assert len(said) == 1


def test_a_compiler_that_is_ended_is_no_failure_to_remember(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    ended.write_text("#!/bin/sh\necho 'a warning' >&2\nkill -INT $$\n")
    ended.chmod(0o755)
    monkeypatch.setenv("CXX", str(ended))
    (status,) = build.ensure_built()
    assert status.state == "failed" and status.reason.endswith("ended by signal 2")
    assert not list(folder.rglob("*.failed"))


@needs_compiler
def test_the_compiler_s_first_error_is_the_reason(folder: Path) -> None:
    (folder / "small.cpp").write_text("int broken( { }\nint more_broken( { }\n")
    (status,) = build.ensure_built()
    assert status.state == "failed"
    assert "failed:" in status.reason and "small.cpp:1" in status.reason and "\n" not in status.reason
    assert libraries.load("small") is None
    # a process that only loads says the same
    assert libraries.missing_reason("small") == status.reason
    (folder / "small.cpp").write_text('#include "answer.h"\n' + SOURCE)
    assert build.ensure_built()[0].state == "built"
    assert libraries.missing_reason("small") == ""


def test_no_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    (status,) = build.ensure_built()
    assert status.state == "failed"
    assert status.reason == "no C++ compiler: none of g++, c++, clang++ is installed"
    assert libraries.missing_reason("small") == status.reason
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert build.ensure_built()[0].reason == "no C++ compiler: CXX=no-such-compiler -m64 is not there"


@needs_compiler
def test_a_built_library_serves_where_the_compiler_is_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.ensure_built()
    monkeypatch.setenv("PATH", str(folder))
    assert build.ensure_built()[0].state == "current"
    assert answer() == 42


@needs_compiler
def test_switched_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.ensure_built()
    monkeypatch.setenv("WEFT_NATIVE", "0")
    assert libraries.load("small") is None
    assert libraries.missing_reason("small") == "native code is switched off by WEFT_NATIVE=0"
    assert build.ensure_built()[0].state == "disabled"


@pytest.mark.parametrize("value", ["off", "2", " 0"])
def test_a_switch_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_NATIVE", value)
    with pytest.raises(ConfigError, match=f"WEFT_NATIVE {value}: legal: 0, 1"):
        libraries.disabled()


def test_an_unknown_name_lists_the_known(folder: Path) -> None:
    assert libraries.load("large") is None
    assert libraries.missing_reason("large") == "there is no native library 'large'; there are: small"
    assert build.ensure_built(["large"])[0].reason == "there is no source large.cpp"


@needs_compiler
def test_a_damaged_file_is_a_reason_not_a_crash(folder: Path) -> None:
    (status,) = build.ensure_built()
    assert status.path
    status.path.write_bytes(b"not a library")
    assert libraries.load("small") is None
    assert "cannot be loaded" in libraries.missing_reason("small")


@needs_compiler
def test_an_installation_that_cannot_be_written_builds_in_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (folder / "_build").write_text("in the way of a directory, for every user")
    (status,) = build.ensure_built()
    assert status.path and status.path.parent == tmp_path / "cache" / "native"
    assert answer() == 42


@needs_compiler
@pytest.mark.parametrize("where", ["tempfile.TemporaryDirectory", "os.replace"])
def test_a_full_disk_is_a_reason_and_leaves_what_was_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (whole,) = build.ensure_built()
    (folder / "answer.h").write_text((folder / "answer.h").read_text() + "// changed\n")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(where, full)
        patched.setattr(Path, "write_text", full)
        (status,) = build.ensure_built()
    assert status.state == "failed" and status.reason.endswith("No space left on device")
    assert not list(folder.rglob(".building-*"))
    assert build.ensure_built()[0].state == "built" and whole.state == "built"
    assert answer() == 42


@needs_compiler
def test_builds_side_by_side(folder: Path) -> None:
    states: list[str] = []
    threads = [threading.Thread(target=lambda: states.append(build.ensure_built()[0].state)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(states) <= {"built", "current"} and answer() == 42
    assert len(list((folder / "_build").iterdir())) == 1


@needs_compiler
def test_the_product_s_own_sources_build() -> None:
    """As a person runs it; whatever is up to date is left alone."""
    command = [sys.executable, "-m", "weft.compute.native.build"]
    environment = {key: value for key, value in os.environ.items() if key not in ("WEFT_NATIVE", "CXX")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == len(libraries.needed())
    assert all(libraries.load(name) is not None for name in libraries.needed())


def tried_here() -> list[str]:
    """Libraries that other tests of the usual version run."""
    return [name for name in libraries.names() if "-" not in name or name in TRIED]


@needs_compiler
def test_every_library_that_is_tried_builds() -> None:
    """Elsewhere tests of a library are skipped when it is missing: here a broken source must not pass as a skip."""
    statuses = built(tried_here())
    assert {status.name for status in statuses} >= {"comm", "step-generic"}
    assert [status for status in statuses if status.state not in ("built", "current")] == []
    assert [name for name in tried_here() if libraries.load(name) is None] == []


@needs_compiler
def test_every_other_library_is_understood_by_the_compiler() -> None:
    compiler, errors = build.find_compiler() or (), {}
    for name in sorted({*libraries.names()} - {*tried_here()}):
        flags = [flag for flag in libraries.flags(name) if flag != "-shared"]
        command = [*compiler, *flags, *libraries.includes(), "-fsyntax-only", str(libraries.source_of(name))]
        errors[name] = subprocess.run(command, capture_output=True, text=True, timeout=300).stderr
    assert not any(errors.values()), errors


@pytest.mark.long
@needs_compiler
def test_every_library_of_weft_builds_where_there_is_a_compiler() -> None:
    statuses = build.ensure_built(libraries.names())
    assert [status for status in statuses if status.state not in ("built", "current")] == []
    assert [name for name in libraries.names() if libraries.load(name) is None] == []
