"""Special tokens that users write as plain text: marked before a template is rendered, cut out when it is encoded.

As transformers' `mark_control_tokens` and `encode_marked_chat` do (5.23, utils/chat_template_utils.py), with the same
markers, of Unicode's private use.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from weft.base.errors import RequestError
from weft.engine.text.tokenizer import Tokenizer

START, END = "\U000f0000", "\U000f0001"
_MARKS = re.compile(f"[{START}{END}]")


def unmarked(text: str) -> str:
    """As a reader sees it."""
    return _MARKS.sub("", text)


class MarkedText:
    """Marks and encodes texts for one tokenizer. Control tokens: the special ones, and added tokens, but blanks, that a
    chat template writes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _tokens(self) -> re.Pattern[str]:
        tokenizer = self._tokenizer
        sources = "\0".join(tokenizer.chat_templates.sources.values())
        tokens = [
            token
            for token, id in tokenizer.added_tokens.items()
            if id in tokenizer.special_ids or (token in sources and not token.isspace())
        ]
        # Longer ones first: else a token would be taken for one that it begins with.
        return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")

    @cached_property
    def _cuts(self) -> re.Pattern[str]:
        return re.compile(f"{START}({self._tokens.pattern}){END}|[{START}{END}]")

    def mark(self, value: Any) -> Any:
        """A text, or a list or dict with texts in it, with marks around each control token; keys stay."""
        if isinstance(value, str):
            return self._tokens.sub(f"{START}\\g<0>{END}", unmarked(value))
        if isinstance(value, dict):
            return {key: self.mark(each) for key, each in value.items()}
        return [self.mark(each) for each in value] if isinstance(value, list | tuple) else value

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Ids of a text with marks. RequestError: the model's vocabulary has a control token as plain text, too."""
        ids: list[int] = []
        for number, piece in enumerate(self._cuts.split(text)):
            if piece:
                ids += self._plain_ids(piece) if number % 2 else self._ids(piece, bool(number))
        before, after = self._tokenizer.surroundings if add_special_tokens else ((), ())
        return [*before, *ids, *after]

    def _plain_ids(self, token: str) -> list[int]:
        ids = self._behind_newline(token, plain=True)
        if self._tokenizer.token_id(token) in ids:
            message = (
                f"{token!r} cannot be text for this model: its vocabulary has it without its being a special token"
            )
            raise RequestError(message, code="invalid_value")
        return ids

    def _ids(self, piece: str, inside: bool) -> list[int]:
        if not inside:
            return self._tokenizer.encode(piece, add_special_tokens=False)
        return self._behind_newline(piece, plain=False)

    def _behind_newline(self, piece: str, *, plain: bool) -> list[int]:
        """Ids of a part from the middle of a text: at its beginning some tokenizers would add a blank."""

        def encode(text: str) -> list[int]:
            return self._tokenizer.encode(text, add_special_tokens=False, plain=plain)

        before, ids = self._tokenizer.encode("\n", add_special_tokens=False), encode(f"\n{piece}")
        return ids[len(before) :] if ids[: len(before)] == before else encode(piece)
