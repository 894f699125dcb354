"""Grammars of a rank's slots: which ids may come next in each, worked out in a thread while the next step runs.

Every rank of an attention block feeds every sampled id to its automaton; the rank that samples a row has its mask
computed. One thread compiles grammars, which may take long, and another feeds automata and computes masks, each in the
order of the calls. A slot's jobs follow each other, also from one thread to the other: a rank that samples no row of a
slot may feed it while its grammar is still compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import numpy as np
from numpy.typing import NDArray

from weft.base.step.plan import NewRequest
from weft.base.step.vocabulary import Vocabulary
from weft.compute.grammars.base import Automaton, GrammarCompiler, GrammarError, Mask
from weft.compute.grammars.llguidance_compiler import LLGuidanceCompiler
from weft.compute.sampling.sampled_rows import SampledRows

Masks = Mapping[int, Mask | None]
"""By row what its grammar allows; None where that failed."""
COMPILE, FEED = "compile grammars", "feed grammars"
"""The threads."""
WORD_BITS = 32
"""Ids in a word of a mask."""


class GrammarMasks:
    """`make`: builds the compiler, once, in its thread; None: this rank has no vocabulary, and every grammar fails.
    `cpus`: where threads may run; empty: where their maker may."""

    def __init__(self, make: Callable[[], GrammarCompiler] | None, vocab_size: int, cpus: Iterable[int] = ()) -> None:
        self._make, self._words, self._cpus = make, -(-vocab_size // WORD_BITS), [*cpus]
        self._compiler: GrammarCompiler | None = None
        self._running: dict[int, _Running] = {}
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def prepare(self) -> None:
        """Begins to build the compiler: the first grammar then finds it."""
        self._submit(COMPILE, self._the_compiler)

    def compile_ahead(self, text: str) -> None:
        """A request with this grammar waits for a slot: it is compiled meanwhile."""
        self._submit(COMPILE, lambda: self._compile_ahead(text))

    def _compile_ahead(self, text: str) -> None:
        compiler = self._the_compiler()
        if compiler is not None:
            with suppress(GrammarError):  # its admission says so
                compiler.compile(text)

    @property
    def slots(self) -> KeysView[int]:
        """Those that have a grammar."""
        return self._running.keys()

    def admit(self, admit: NewRequest) -> bool:
        """A request takes its slot. Whether it has a grammar: that is compiled, and what was generated before a
        preemption fed to it."""
        self._running.pop(admit.slot, None)
        text = admit.params.grammar
        if text is None:
            return False
        running = self._running[admit.slot] = _Running(self._words)
        running.job = self._submit(COMPILE, lambda: running.begin(self._the_compiler(), text, admit.output_ids))
        return True

    def feed(self, slot: int, token: int, own: bool) -> None:
        """`slot`, which has a grammar, was given `token`. `own`: this rank sampled it, and will most likely sample the
        next."""
        running = self._running[slot]
        before = running.job
        running.job = self._submit(FEED, lambda: running.step(token, own, before))

    def has(self, rows: SampledRows) -> bool:
        """Whether one of them has a grammar."""
        return bool(self._running) and not self._running.keys().isdisjoint(rows.slots.tolist())

    def masks(self, rows: SampledRows) -> Masks:
        """Of those that have a grammar, and are not only scored."""
        if not self.has(rows):
            return {}
        pairs = enumerate(rows.pairs())
        ruled = [(row, slot) for row, (slot, position) in pairs if slot in self._running and position >= 0]
        found = {row: self._filled(slot) for row, slot in ruled}
        return {row: None if running.failed else running.allowed for row, running in found.items()}

    def mask_address(self, slot: int) -> int | None:
        """Of what may come next in `slot`, which has a grammar; None where that failed. Holds until the next `feed`."""
        running = self._filled(slot)
        return None if running.failed else running.address

    def _filled(self, slot: int) -> _Running:
        running = self._running[slot]
        running.job.result()
        if not running.filled:
            running.job = self._submit(FEED, running.fill)
            running.job.result()
        return running

    def _the_compiler(self) -> GrammarCompiler | None:
        if self._compiler is None and self._make is not None:
            self._compiler = self._make()
        return self._compiler

    def _submit(self, thread: str, job: Callable[[], object]) -> Future[object]:
        if thread not in self._threads:
            self._threads[thread] = ThreadPoolExecutor(1, thread, self._keep_to_cpus)
        return self._threads[thread].submit(job)

    def _keep_to_cpus(self) -> None:
        if self._cpus:
            with suppress(OSError):
                os.sched_setaffinity(0, self._cpus)

    def close(self) -> None:
        """Ends the threads; safe to call twice."""
        for thread in self._threads.values():
            thread.shutdown(cancel_futures=True)


class _Running:
    """The automaton of one output. All methods run in one of the threads."""

    def __init__(self, words: int) -> None:
        self.allowed: Mask = np.zeros(words, np.uint32)
        self.address = self.allowed.ctypes.data
        self.filled = self.failed = False
        """Whether `allowed` is of the next token; whether there is none any more."""
        self.job: Future[object] = Future()
        self._automaton: Automaton | None = None

    def begin(self, compiler: GrammarCompiler | None, text: str, ids: Sequence[int]) -> None:
        """The first mask, after `ids`."""
        try:
            if compiler is None:
                raise GrammarError("this rank has no vocabulary")
            self._automaton = compiler.compile(text)
            self._automaton.feed(ids)
        except GrammarError:
            self._fail()
        else:
            self.fill()

    def step(self, token: int, own: bool, before: Future[object]) -> None:
        """One more `token`, after the job `before`; the mask of the next where it is asked for."""
        before.result()
        self.filled = self.failed
        if self._automaton is None or self.failed:
            return
        try:
            self._automaton.feed((token,))
        except GrammarError:
            return self._fail()
        if own:
            self.fill()

    def fill(self) -> None:
        """The mask of the next token."""
        if self._automaton is None:
            return self._fail()
        try:
            self._automaton.fill(self.allowed)
        except GrammarError:
            return self._fail()
        self.filled = True

    def _fail(self) -> None:
        self.filled = self.failed = True
        self._automaton = None


def as_bools(mask: Mask, vocab_size: int) -> NDArray[np.bool_]:
    """[V]: whether each id is allowed."""
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocab_size].view(np.bool_)


def grammar_masks(vocabulary: Vocabulary | None, vocab_size: int, cpus: Iterable[int] = ()) -> GrammarMasks:
    """Of llguidance's automata over `vocabulary`."""
    make = None if vocabulary is None else partial(LLGuidanceCompiler, vocabulary)
    return GrammarMasks(make, vocab_size, cpus)
