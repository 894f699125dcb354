"""This working copy beside a commit of it: the same bursts of requests through both, in turns.

    python benchmarks/ab_commit.py COMMIT [--model DIR] [--tp 2] [--quantization Q [--activations full|int8]]
                                          [--no-compress-weights] [--cases "8 streams" ...] [--streamed]
                                          [--rounds 12] [--starts 2] [--save FILE.json]

For what a change costs or brings where the machine's own speed changes more. Where an engine's memory came to lie is
luck of its start, which no number of rounds evens out: `--starts 8` starts both anew so many times, for so many
rounds each, the commit first in one and this working copy in the next, because the later one may be faster; and says
what each start's median was. The commit is checked out to a folder of its own, its C++ parts are compiled there, and
an engine runs in a process for each of the two, with ranks of its own where `--tp` asks for several; see
`benchmarks/common/bursts.py` for what is compared. Bursts after long prompts find these in the prefix cache.
`--streamed`: answers are read token by token, in cases of one stream; else whole. Nothing of the commit is used but
`weft.LLM`, `weft.SamplingParams` and basic limits, so it may be an old one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.bursts import CASES, Burst, in_starts
from benchmarks.common.command import even, run_command, whole
from benchmarks.common.offline_engine import options, tell
from benchmarks.peers.probe import Probe, State
from weft.base.errors import UsageError, WeftError
from weft.base.step.sampling_params import SamplingParams
from weft.model.checkpoint.hub.embedded import cache_dir
from weft.model.checkpoint.hub.paths import model_path

ROOT = Path(__file__).resolve().parents[1]
LONG: dict[str, Burst] = {
    "decode behind 8,000": (1, 8000, 33),
    "8 streams behind 2,000": (8, 2000, 33),
    "16 streams": (16, 8, 24),
    "64 streams": (64, 8, 24),
    "32 streams behind 128": (32, 128, 97),
}
DRIVER = """
import json, pathlib, sys
import weft
from weft.base.settings import EngineConfig
tree, model, cached, streamed, tp, settings = sys.argv[1:]
assert pathlib.Path(weft.__file__).is_relative_to(tree), weft.__file__
limits = EngineConfig(max_model_len=8192, max_num_seqs=64, kv_cache_memory=768 << 20, dtype="bfloat16",
                      enable_prefix_caching=cached == "True", **json.loads(settings))
with weft.LLM(model, config=limits, tp=int(tp)) as llm:
    print("ready", flush=True)
    for line in sys.stdin:
        prompts, tokens = json.loads(line)
        params = weft.SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        if streamed == "True":
            for _ in llm.stream(prompts[0], params):
                pass
        else:
            llm.generate(prompts, params)
        print("done", flush=True)
"""


class Tree:
    """An engine of the code in `folder`, in a process of its own."""

    def __init__(self, folder: Path, cached: bool, given: argparse.Namespace) -> None:
        self._folder = folder
        words = [
            sys.executable,
            "-c",
            DRIVER,
            str(folder),
            str(model_path(given.model)),
            str(cached),
            str(given.streamed),
        ]
        settings = {name: getattr(given, name) for name in ("quantization", "activations", "compress_weights")}
        chosen = {name: value for name, value in settings.items() if value is not None}
        words += [str(given.tp), json.dumps(chosen)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=of_tree(folder)
        )
        self._wait("ready")

    def generate(self, prompts: list[list[int]], params: SamplingParams) -> None:
        """Returns when all have ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([prompts, params.max_tokens]) + "\n")
        self._process.stdin.flush()
        self._wait("done")

    def close(self) -> None:
        """Ends the engine."""
        self._process.communicate()

    def _wait(self, word: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
        raise WeftError(f"the engine in {self._folder} ended")


def running(folder: Path, cached: bool, given: argparse.Namespace) -> AbstractContextManager[Tree]:
    """A `Tree`, closed at the end."""
    return closing(Tree(folder, cached, given))


def of_tree(folder: Path) -> dict[str, str]:
    """The environment in which `weft` is the one there."""
    return {**os.environ, "PYTHONPATH": str(folder)}


def run(words: Sequence[str], folder: Path) -> None:
    """UsageError with the last line of what a command said, where it failed."""
    done = subprocess.run(words, cwd=folder, env=of_tree(folder), capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the commit's files, its C++ parts compiled; deleted at the end."""
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above).resolve() / "tree"
        run(["git", "worktree", "add", "--detach", str(folder), commit], ROOT)
        try:
            run([sys.executable, "-m", "weft.compute.native.build"], folder)
            yield folder
        finally:
            run(["git", "worktree", "remove", "--force", str(folder)], ROOT)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("commit")
    parser.add_argument("--quantization", choices=("none", "int8", "int4"), default="none")
    parser.add_argument("--activations", choices=("auto", "full", "int8"), default="auto")
    on_or_off = argparse.BooleanOptionalAction
    parser.add_argument("--compress-weights", action=on_or_off, default=None, help="numbers in 12 bits, if any")
    parser.add_argument("--cases", nargs="+", choices=(*CASES, *LONG), help="default: all")
    parser.add_argument("--streamed", action="store_true", help="answers are read token by token")
    parser.add_argument("--rounds", type=whole, default=12, help="of each start")
    parser.add_argument("--starts", type=even, default=2, help="of both engines")
    arguments = parser.parse_args()
    fits = [name for name, burst in {**CASES, **LONG}.items() if burst[0] == 1 or not arguments.streamed]
    asked = arguments.cases or fits
    if not {*asked} <= {*fits}:
        raise UsageError(f"--streamed reads one stream; of --cases that is so of {', '.join(fits)}")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    looks: list[State] = []
    with Probe(cache_dir() / "peers") as probe, checked_out(arguments.commit) as folder:
        for known, cached in ((CASES, False), (LONG, True)):
            bursts = {name: burst for name, burst in known.items() if name in asked}
            if not bursts:
                continue
            makers = {
                name: partial(running, place, cached, arguments)
                for name, place in ((arguments.commit, folder), ("this one", ROOT))
            }
            measured, seen = in_starts(probe, makers, bursts, arguments.starts, arguments.rounds)
            found |= measured
            looks += seen
    tell(arguments, found, looks)


if __name__ == "__main__":
    run_command(main)
