"""check_hashes: compares a model's files with their known hashes, before anything is loaded."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal, get_args

from weft.base.errors import ConfigError
from weft.model.checkpoint.checkpoint import Checkpoint
from weft.model.checkpoint.hub.embedded import cache_dir
from weft.model.checkpoint.integrity.digest_cache import computed, remembered
from weft.model.checkpoint.integrity.known_hashes import MANIFEST, HashKind, known_hashes, weight_files
from weft.model.checkpoint.tensors import raise_all

Say = Callable[[str], None]
Verify = Literal["auto", "strict", "none"]
VERIFY: tuple[Verify, ...] = get_args(Verify)
"""auto: files with a known hash are compared, each once until it changes. strict: at every start, and weights without a
known hash are refused. none: nothing is compared."""
MOST_THREADS = 8
REPORT_EVERY_S = 10.0

Digests = Mapping[HashKind, str]


def check_hashes(checkpoint: Checkpoint, verify: str = "auto", say: Say = lambda _: None) -> int:
    """Compares the files of `checkpoint` with what they should hash to; the bytes that were read for it.

    CheckpointError: every file that differs with both hashes, what a manifest names and is not there, and (strict)
    weights without a known hash. ConfigError: `verify` is none of VERIFY.
    """
    if verify not in VERIFY:
        message = f"verify_checkpoint {verify}: legal: {', '.join(VERIFY)}"
        raise ConfigError(message, field="verify_checkpoint", value=verify, legal=VERIFY)
    if verify == "none":
        return 0
    found = known_hashes(checkpoint)
    for note in found.notes:
        say(note)
    problems = list(found.problems)
    if verify == "strict":
        known = {each.path for each in found.known}
        problems += [_unknown(file) for file in weight_files(checkpoint) if file not in known]
    raise_all(checkpoint.path, problems)
    kinds: dict[Path, set[HashKind]] = {}
    for each in found.known:
        kinds.setdefault(each.path, set()).add(each.kind)
    digests, read = _digests(kinds, verify == "auto", problems, say)
    for each in found.known:
        got = digests.get(each.path, {}).get(each.kind)
        if got is not None and got != each.digest:
            remedy = f"; {each.remedy}" if each.remedy else ""
            problems.append(f"{each.path}: {each.kind} {each.digest} expected ({each.source}), found {got}{remedy}")
    raise_all(checkpoint.path, problems)
    return read


def _unknown(file: Path) -> str:
    needed = f"add it to {MANIFEST} in the same directory"
    return f"{file}: no hash of it is known, and --verify-checkpoint strict needs one; {needed}"


def _digests(
    kinds: Mapping[Path, set[HashKind]], remember: bool, problems: list[str], say: Say
) -> tuple[dict[Path, Digests], int]:
    """The digests of every file, and the bytes that were read to compute them."""
    folder = cache_dir() / "hashes"
    old = {file: remembered(file, folder) for file in kinds} if remember else {}
    digests = {file: known for file, known in old.items() if kinds[file] <= known.keys()}
    files = [file for file in kinds if file not in digests]
    if not files:
        return digests, 0
    sizes = {file: os.stat(file).st_size for file in files}
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    say(f"comparing {count}, {sum(sizes.values()) / 1e6:,.1f} MB, with known hashes")
    stop = threading.Event()
    with ThreadPoolExecutor(min(MOST_THREADS, len(os.sched_getaffinity(0)), len(files))) as pool:
        jobs = {pool.submit(computed, file, kinds[file], folder, stop): file for file in files}
        try:
            _wait(jobs, sizes, say)
        finally:
            stop.set()  # after Ctrl-C the other threads must not hash to the end
    for job, file in jobs.items():
        error = job.exception()
        if isinstance(error, OSError):
            problems.append(f"{file}: {error.strerror}")
        else:
            digests[file] = job.result()
    return digests, sum(sizes.values())


def _wait(jobs: Mapping[Future[dict[HashKind, str]], Path], sizes: Mapping[Path, int], say: Say) -> None:
    """Waits for all jobs; reports progress every REPORT_EVERY_S seconds."""
    began, left, whole = time.monotonic(), set(jobs), sum(sizes.values()) / 1e6
    while left:
        _, left = wait(left, REPORT_EVERY_S)
        if left:
            done = sum(sizes[file] for job, file in jobs.items() if job not in left) / 1e6
            say(f"{done:,.1f} MB of {whole:,.1f} compared in {time.monotonic() - began:.0f} s")
