"""Where the tokens of an answer begin in its text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weft.engine.text.characters import Characters
from weft.engine.text.tokenizer import Tokenizer


class TextOffsets:
    """Where each token's text begins in the answer that is sent: after the prompt's `text`, where that is repeated."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip: frozenset[int], text: str | None) -> None:
        """`skip`: ids of the answer that are no text."""
        self._tokenizer, self._text = tokenizer, text
        at_start = all(id in skip for id in prompt_ids)
        self._characters = Characters(tokenizer.pieces, skip, at_start=at_start)
        self._count = len(text or "")

    def of_prompt(self, ids: Sequence[int]) -> list[int]:
        """Of the tokens of the text that is repeated; special ones may not be part of it."""
        pieces, text, found, count = self._tokenizer.pieces, self._text or "", list[int](), 0
        characters = Characters(pieces, frozenset(), at_start=True)
        for id in ids:
            at = min(count + characters.held, len(text))
            found.append(at)
            if id not in self._tokenizer.special_ids or text.startswith(pieces[id].decode("utf-8", "replace"), at):
                count += len(characters.push([id]))
        return found

    def of_answer(self, ids: Iterable[int]) -> list[int]:
        """Of the next tokens of the answer."""
        found = []
        for id in ids:
            found.append(self._count + self._characters.held)
            self._count += len(self._characters.push([id]))
        return found
