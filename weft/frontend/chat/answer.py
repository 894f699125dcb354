"""AnswerRules: what an answer to one request may hold, as a parser of its text and as a grammar."""

from __future__ import annotations

from dataclasses import dataclass

from weft.frontend.chat.answer_grammar import AnswerGrammar, Words
from weft.frontend.chat.answer_parser import AnswerParser
from weft.frontend.chat.config import ChatForms
from weft.frontend.chat.reasoning_forms import Thinking
from weft.frontend.chat.tools import NO_TOOLS, ToolUse


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRules:
    """`thinking`: how the answer begins. `budget`: tokens of reasoning, at most; None: any number."""

    forms: ChatForms
    use: ToolUse = NO_TOOLS
    thinking: Thinking = Thinking.NONE
    budget: int | None = None

    @property
    def plain(self) -> bool:
        """Whether all of the answer is text."""
        return self.thinking is Thinking.NONE and not self.use.callable and not self._in_channels

    @property
    def _in_channels(self) -> bool:
        return self.forms.reasoning is not None and bool(self.forms.reasoning.answer)

    @property
    def budgeted(self) -> bool:
        """Whether reasoning may come, and is bounded."""
        return self.budget is not None and self.thinking is not Thinking.NONE

    def parser(self) -> AnswerParser:
        """For one answer."""
        thinks = self.thinking is not Thinking.NONE or self._in_channels
        return AnswerParser(
            form=self.forms.tools,
            tools=self.use.callable,
            reasoning=self.forms.reasoning if thinks else None,
            thinking=self.thinking is Thinking.OPEN,
            must_call=self.use.mode == "required",
        )

    def grammar(self, words: Words, *, content: str | None = None) -> str | None:
        """What the answer keeps to; None where any text will do. `content`: the rule of text for the reader."""
        writer = AnswerGrammar(
            words=words,
            form=self.forms.tools,
            reasoning=self.forms.reasoning,
            thinking=self.thinking,
            budget=self.budget if self.budgeted else None,
            content=content,
        )
        return writer.written(self.use)
