"""Runs the C++ parts under the compiler's sanitizers: `make sanitize`.

One variant (avx2) is built with AddressSanitizer and UndefinedBehaviorSanitizer in a copy of the working tree, and the
tests of `TESTS` run with it. The programs of `tests/compute/native/threads` are built with ThreadSanitizer and run
without Python. Before each, a fault is planted in the copy, which must be found: else the sanitizer sees nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from weft.compute.native import isa

ROOT = Path(__file__).resolve().parents[1]
VARIANT = "avx2"
REPORT = "sanitizer-report"
MOST_SHOWN = 4000
"""Characters of a report."""
PASSED, FAILED = 0, 1
"""Exit statuses of pytest; others say that no test ran."""
# Of one command; without a sanitizer each takes a minute at most.
LIMIT_S = 1800
TESTS = (
    "tests/compute/comm",
    "tests/compute/native/kernels/test_step_partial_attention.py",
    "tests/model/program/test_shared_context_programs.py",
    "tests/runtime/worker/test_decode_steps.py",
    "tests/runtime/worker/test_following_steps.py",
    "tests/compute/sampling/test_grammar_rows.py",
)
# A copy of no bytes from or to a null pointer is harmless, and common where a rank has no rows.
MEMORY = (
    "-fsanitize=address,undefined -fno-sanitize=nonnull-attribute -fno-sanitize-recover=undefined "
    "-fno-omit-frame-pointer -g1"
)
"""What the compiler is asked for beside the flags of a library."""
THREADS = "-std=c++17 -O1 -g -pthread -fsanitize=thread -ffp-contract=off -Wno-maybe-uninitialized".split()
NATIVE = Path("weft/compute/native")
PROGRAMS = Path("tests/compute/native/threads")
BARRIER = "int weft_comm_barrier(Comm* c, uint32_t group) {"
BUILD = f"from weft.compute.native import build; build.MOST_SECONDS = {LIMIT_S}; raise SystemExit(build.main())"
PLANTED_TESTS = ("tests/compute/comm/test_comm_conformance.py", "-k", "test_between_processes and shared_memory-2")
PLANTED = (
    ("comm.cpp", BARRIER, "volatile char* planted = new char[4]; delete[] planted; planted[0] = 1;"),
    ("comm.cpp", BARRIER, "volatile int planted = 2147483647; planted = planted + 1;"),
)
"""File, the line that a fault is planted after, and the fault: a write to freed memory, and an overflow."""
RACE = ("runtime/pool.h", "bool barrier(int thread) {", "static int planted; ++planted;")


def main() -> int:
    """1 where a planted fault was not found, or another was."""
    began, failed = time.monotonic(), list[str]()
    with tempfile.TemporaryDirectory(prefix="weft-sanitize-") as folder:
        tree = copied(Path(folder) / "tree")
        for fault in PLANTED:
            with planted(tree, *fault):
                failed += missed(fault, tests_fail(tree, PLANTED_TESTS))
        with planted(tree, *RACE):
            failed += missed(RACE, programs_fail(tree))
        failed += [*programs_fail(tree), *tests_fail(tree, TESTS)]
    print(*failed, f"sanitizers: {len(failed)} failed, {time.monotonic() - began:.0f} s", sep="\n")
    return int(bool(failed))


def copied(tree: Path) -> Path:
    """The files of the working tree that git knows, or would."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


@contextmanager
def planted(tree: Path, file: str, line: str, fault: str) -> Iterator[None]:
    """The file has the fault until the end."""
    path = tree / NATIVE / file
    text = path.read_text()
    assert line in text, f"{file} has no line {line}"
    path.write_text(text.replace(line, f"{line} {fault}"))
    try:
        yield
    finally:
        path.write_text(text)


def missed(fault: tuple[str, str, str], found: Sequence[str]) -> list[str]:
    """A line where the planted fault turned nothing red."""
    return [] if found else [f"planted and not found in {fault[0]}: {fault[2]}"]


def tests_fail(tree: Path, tests: Sequence[str]) -> list[str]:
    """Builds the libraries of the copy and runs tests with them; a line where one fails."""
    compiler = os.environ.get("CXX", "g++")
    runtimes = (runtime(compiler, f"lib{name}.so") for name in ("asan", "ubsan"))
    settings = {
        "CXX": f"{compiler} {MEMORY}",
        "WEFT_NATIVE_ISA": VARIANT,
        "PYTHONPATH": str(tree),
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={tree / REPORT}",
        # The interpreter keeps memory until it ends, and ends children by signals.
        "ASAN_OPTIONS": f"detect_leaks=0:handle_segv=0:handle_abort=0:log_path={tree / REPORT}",
    }
    here = {**os.environ, **settings}
    if run([sys.executable, "-c", BUILD], tree, here):
        return ["the libraries were not built"]
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", f"timeout={LIMIT_S}", *tests]
    status = run(words, tree, {**here, "LD_PRELOAD": " ".join(runtimes)})
    # A process that is ended at once leaves what it said in pytest's capture.
    for report in sorted(tree.glob(f"{REPORT}.*")):
        print(report.read_text()[:MOST_SHOWN])
        report.unlink()
    assert status in (PASSED, FAILED), f"no test ran: exit status {status}"
    return ["tests with address and undefined"] if status == FAILED else []


def runtime(compiler: str, library: str) -> str:
    """Path of a sanitizer's library."""
    words = [*compiler.split(), f"-print-file-name={library}"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def programs_fail(tree: Path) -> list[str]:
    """Builds the programs of threads and runs them; a line for each that fails."""
    failed = []
    for source in sorted((tree / PROGRAMS).glob("*.cpp")):
        made = source.with_suffix("")
        words = [
            *os.environ.get("CXX", "g++").split(),
            *THREADS,
            *isa.FLAGS[VARIANT],
            f"-I{tree / NATIVE}",
            str(source),
        ]
        if run([*words, "-o", str(made)], tree) or run([str(made)], tree, {"TSAN_OPTIONS": "halt_on_error=1"}):
            failed.append(f"threads: {source.stem}")
    return failed


def run(words: Sequence[str], folder: Path, settings: Mapping[str, str] | None = None) -> int:
    """Its exit status; what it says is shown."""
    print("$", *words, flush=True)
    return subprocess.run(
        words, cwd=folder, env=None if settings is None else dict(settings), timeout=LIMIT_S
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
