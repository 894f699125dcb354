"""AnswerReader: the parts that pieces of an answer have, and how many of its tokens are reasoning."""

from __future__ import annotations

from collections.abc import Sequence

from weft.engine.core.choice import ChoiceDelta
from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.parts import CallStart, Part, ReasoningPart, TextPart


class AnswerReader:
    """Of one answer. `reasoning_tokens`: of pieces that are reasoning; of a piece that is so in part, this part of its
    tokens."""

    def __init__(self, rules: AnswerRules) -> None:
        self._parser = None if rules.plain else rules.parser()
        self.reasoning_tokens = 0

    @property
    def called(self) -> bool:
        """Whether tools are called, and the last call is whole."""
        return self._parser is not None and self._parser.called

    def parts(self, piece: ChoiceDelta) -> list[Part]:
        """The last piece ends what is held back."""
        if self._parser is None:
            return [TextPart(piece.text)] if piece.text else []
        thinking = self._parser.thinking
        parts = self._parser.push(piece.text)
        if piece.finish_reason is not None:
            parts += self._parser.finish(cut=piece.is_cut)
        self.reasoning_tokens += _thought(piece, parts, thinking or self._parser.thinking)
        return parts


def reasoning_tokens_of(rules: AnswerRules, pieces: Sequence[ChoiceDelta]) -> int:
    """Of a whole answer."""
    reader = AnswerReader(rules)
    if not rules.plain:
        for piece in pieces:
            reader.parts(piece)
    return reader.reasoning_tokens


def _thought(piece: ChoiceDelta, parts: Sequence[Part], thinking: bool) -> int:
    sizes = [(len(part.text), isinstance(part, ReasoningPart)) for part in parts if not isinstance(part, CallStart)]
    if not sizes:
        return len(piece.token_ids) if thinking else 0
    thought = sum(size for size, is_thought in sizes if is_thought)
    return round(len(piece.token_ids) * thought / max(1, sum(size for size, _ in sizes)))
