"""Grammars of a rank's slots: which ids may come next in each, worked out in a thread while the next step runs.

Every rank of an attention block feeds every sampled id to its automaton; the rank that samples a row has its mask
computed. One thread compiles grammars, which may take long, and another begins automata, feeds them and computes masks,
each in the order of the calls. A slot's jobs follow each other, also from one thread to the other.
"""

from __future__ import annotations

import os
import threading
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
COMPILE_LATER = 10
"""No step waits for a compile, which would take a core from steps where there are few."""
STACK_BYTES = 32 << 20
"""The library calls itself for each level of a grammar: more than the text worker has, which tried it."""
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
        self.compiled = 0
        """Grammars of `compile_ahead` that are compiled or refused."""

    def prepare(self) -> None:
        """Begins to build the compiler: the first grammar then finds it."""
        self._submit(COMPILE, self._the_compiler)

    def compile_ahead(self, texts: Sequence[str], *, needed: bool = True) -> int:
        """Requests with these grammars wait for a slot until they are compiled. How many of all so far are compiled or
        refused. Not `needed`: this rank samples nothing."""
        if not needed:
            self.compiled += len(texts)
        for text in texts if needed else ():
            self._submit(COMPILE, partial(self._compile_ahead, text))
        return self.compiled

    def _compile_ahead(self, text: str) -> None:
        compiler = self._the_compiler()
        try:
            if compiler is not None:
                compiler.compile(text)
        except GrammarError:
            pass  # its admission says so
        finally:
            self.compiled += 1

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
        # It was compiled ahead: a thread that compiles another would let the step wait.
        thread = COMPILE if self._compiler is None else FEED
        running.job = self._submit(thread, lambda: running.begin(self._the_compiler(), text, admit.output_ids))
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
        if thread in self._threads:
            return self._threads[thread].submit(job)
        later = COMPILE_LATER if thread == COMPILE else 0
        self._threads[thread] = ThreadPoolExecutor(1, thread, partial(self._settle, later))
        usual = threading.stack_size(STACK_BYTES)
        try:
            return self._threads[thread].submit(job)  # which starts it
        finally:
            threading.stack_size(usual)

    def _settle(self, later: int) -> None:
        """In the new thread: its CPUs, and how much later than others the system lets it run."""
        with suppress(OSError):
            if self._cpus:
                os.sched_setaffinity(0, self._cpus)
            if later:
                own = threading.get_native_id()
                os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + later)

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
