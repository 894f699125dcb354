"""Chats: from a conversation of any API, in OpenAI's fields, to the prompt and the reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.tools import ToolUse
from weft.frontend.server.answer_grammars import AnswerGrammars
from weft.frontend.server.app import Service
from weft.frontend.server.fields.notes import notes_of
from weft.frontend.server.http.body import off_loop
from weft.frontend.server.openai.base import Shown
from weft.frontend.server.openai.messages import checked_messages
from weft.frontend.server.openai.models import ChatPrompt, check_length, kept_of, saying_shortage, truncated
from weft.frontend.server.openai.params import chat_params
from weft.frontend.server.openai.requests import ChatFields, ChatRequest
from weft.frontend.server.openai.tool_fields import tool_use
from weft.frontend.server.replies import ReplyForm
from weft.frontend.text_worker.jobs import Tokenize

BYTES_OF_MESSAGE = 256
"""Bytes of a body that take as long to read as one message to be made ready for a chat template."""


@dataclass(frozen=True, slots=True)
class BegunChat:
    """A chat whose prompt is known. `rules`: what its answer's text is made of."""

    ids: list[int]
    rules: AnswerRules
    shown: Shown


@dataclass(frozen=True, slots=True)
class ChatWay:
    """How an API has a chat answered. `prefix`: of the answer's id. `clips`: an answer may have fewer tokens than are
    asked for, where the context has no more room. `mute`: only the prompt is wanted."""

    prefix: str
    form: Callable[[BegunChat], ReplyForm]
    clips: bool = False
    mute: bool = False


class Chats:
    """The chats of `service`, for all APIs that have any."""

    def __init__(self, service: Service) -> None:
        self.service, self._model = service, service.model
        self._grammars = AnswerGrammars(self._model.texts, self._model.words, self._model.vocab_size)

    async def answer(self, request: Request, asked: ChatRequest, way: ChatWay) -> Response:
        """The reply to a chat."""
        service, model = self.service, self._model
        most = service.engines.check_room(1).max_logprobs
        messages = self._checked(asked)
        use = tool_use(asked.tools, asked.tool_choice, asked.parallel_tool_calls, model.forms, notes_of(request.scope))
        params, shown = chat_params(asked, model.vocab_size, most)
        params, headers = await service.ruled(request, asked, params)
        limits = service.engines.check_room(params.n)
        texts = [message["content"] for message in messages if "content" in message]
        longest = limits.max_model_len if asked.truncate_prompt_tokens is None else None
        with saying_shortage(limits):
            model.check_bytes(texts, longest, "messages")
            keep = kept_of(asked.truncate_prompt_tokens, limits.max_model_len)
            prompt = await self._prompt(request, asked, messages, use, longest, keep)
            ids = truncated(prompt.ids, asked.truncate_prompt_tokens, limits.max_model_len)
            if way.clips and params.max_tokens is not None and len(ids) + params.max_tokens > limits.max_model_len:
                params = replace(params, max_tokens=None)
            check_length(ids, params.max_tokens, limits.max_model_len, "messages")
        budget = asked.thinking_token_budget
        rules = AnswerRules(forms=model.forms, use=use, thinking=prompt.thinking, budget=budget)
        params, headers = await self._grammars.of(request, rules, params, headers)
        form = way.form(BegunChat(ids, rules, shown))
        kept = frozenset[int]() if rules.plain else model.kept_ids
        return service.reply(asked, [ids], params, form, way.prefix, mute=way.mute, kept=kept, headers=headers)

    async def ids_of(self, request: Request, asked: ChatFields) -> list[int]:
        """The prompt of a conversation."""
        self._model.check_name(asked.model)
        self.service.engines.check_ready()
        messages = self._checked(asked)
        choice = asked.tool_choice if isinstance(asked, ChatRequest) else "auto"
        use = tool_use(asked.tools, choice, True, self._model.forms, notes_of(request.scope))
        return (await self._prompt(request, asked, messages, use)).ids

    def _checked(self, asked: ChatFields) -> list[dict[str, Any]]:
        self._model.check_name(asked.model)
        self._model.check_chat(asked)
        return checked_messages(asked.messages)

    async def _prompt(
        self,
        request: Request,
        asked: ChatFields,
        messages: list[dict[str, Any]],
        use: ToolUse,
        longest: int | None = None,
        keep: int | None = None,
    ) -> ChatPrompt:
        """`longest`: most tokens. `keep`: how many of the last ids are needed."""
        size = BYTES_OF_MESSAGE * len(messages)
        conversation = await off_loop(size, self._model.conversation, asked, messages, use)
        text = conversation.text(await self.service.run(request, conversation.render))
        special: Literal["tokens", "marked"] = "tokens" if self._model.forms.special_tokens_in_text else "marked"
        job = Tokenize([text], asked.add_special_tokens, longest, "messages", keep, special)
        (ids,) = await self.service.run(request, job)
        return ChatPrompt(ids, self._model.thinking(text, conversation))
