"""Automata of llguidance over weft's own vocabulary.

A grammar is llguidance's text: Lark, or its JSON of several grammars. Every added token counts as special: a grammar
names it as a token (`<|im_end|>`, or `<[7]>` by id), and no text matches it.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence

import llguidance
import numpy as np
from llguidance import TokenizerWrapper

from weft.base.step.vocabulary import Vocabulary
from weft.compute.grammars.base import OWN_RULES, GrammarError, Mask

KEPT = 16
"""Compiled grammars that are kept at their start, the last used ones."""
_PLACE = re.compile(r"^at \d+\(\d+\): ")
MAX_MESSAGE = 400
"""Characters of the library's own words that a requester sees."""


OWN_ITEMS = 50_000
"""Items of one mask of a requester's own rules: in an ambiguous grammar each of many is much work."""
ITEMS = 400_000
"""Items of one mask of any other grammar, where each is little work: what 1,000 properties need of which any may be
left out, with a large vocabulary, in about 20 ms."""


def limits(items: int) -> llguidance.LLParserLimits:
    """Bounds of work and memory: a compile stays below 100 ms, a mask mostly far below 10 ms, an automaton's own memory
    below 20 MB. A row of 8,192 items is what 1,000 properties need of which any may be left out."""
    return llguidance.LLParserLimits(
        max_items_in_row=8192,
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        step_max_items=items,
        max_lexer_states=10_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


class LLGuidanceCompiler:
    """For the ids of `vocabulary`. Building one takes some tenths of a second for a large vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = llguidance.LLTokenizer(TokenizerWrapper(_Pieces(vocabulary)), eos_token=list(vocabulary.eos))
        self._limits, self._own_limits = limits(ITEMS), limits(OWN_ITEMS)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()

    def compile(self, text: str) -> LLGuidanceAutomaton:
        """See `GrammarCompiler`."""
        with self._lock:
            matcher = self._kept.get(text)
        if matcher is None:
            matcher = self._matcher(text)
        with self._lock:
            self._kept[text] = matcher
            self._kept.move_to_end(text)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return LLGuidanceAutomaton(matcher.deep_copy())

    def check(self, text: str) -> None:
        """GrammarError: `text` cannot be compiled, or allows no first token."""
        matcher = self._matcher(text)
        LLGuidanceAutomaton(matcher).fill(np.zeros(-(-self._tokenizer.vocab_size // 32), np.uint32))

    def _matcher(self, text: str) -> llguidance.LLMatcher:
        bounds = self._own_limits if OWN_RULES in text else self._limits
        matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0, limits=bounds)
        _check(matcher)
        return matcher


class LLGuidanceAutomaton:
    """See `Automaton`."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def feed(self, ids: Sequence[int]) -> None:
        """See `Automaton`."""
        for id in ids:  # one by one: only then the end of an answer is taken where the grammar has come to its own end
            if not self._matcher.consume_token(id):
                return _check(self._matcher)

    def fill(self, mask: Mask) -> None:
        """See `Automaton`."""
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        _check(self._matcher)
        if not mask.any():
            raise GrammarError("the grammar allows no token here")


def _check(matcher: llguidance.LLMatcher) -> None:
    if matcher.is_error():
        raise GrammarError(message_of(matcher.get_error()))


def message_of(error: str) -> str:
    """The library's words without the state that it may add to them."""
    plain = _PLACE.sub("", error.partition("\n<state>")[0].partition("\n   1 | ")[0].strip())
    before, found, reason = plain.rpartition("regex parse error:")
    if found:  # it repeats all of the expression before the reason
        plain = f"{found} error: {reason.rpartition('error: ')[2]}"
    return " ".join(plain.split())[:MAX_MESSAGE]


class _Pieces:
    """A vocabulary as `TokenizerWrapper` asks for it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.tokens()
        self.special_token_ids = list(vocabulary.added)
        self.eos_token_id, self.bos_token_id = vocabulary.eos[0], None
        added = {*vocabulary.added}
        first = {token: id for id, token in reversed([*enumerate(self.tokens)]) if token and id not in added}
        self._ids, self._longest = first, max(map(len, first), default=1)

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of a text that a grammar forces: the longest token first. Grammars that forbid forcing, as all of weft's
        do, leave the choice of tokens to the model and never ask."""
        rest, ids = text.encode() if isinstance(text, str) else text, []
        while rest:
            length = next((n for n in range(min(self._longest, len(rest)), 0, -1) if rest[:n] in self._ids), None)
            if length is None:
                break
            ids.append(self._ids[rest[:length]])
            rest = rest[length:]
        return ids
