"""OpenAI's chats and completions, and the tokenizer's routes."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from weft.engine.core.limits import Limits
from weft.frontend.server.chats import BegunChat, Chats, ChatWay
from weft.frontend.server.http.access import Access
from weft.frontend.server.openai.bodies import Bodies
from weft.frontend.server.openai.formats import ChatFormat, CompletionFormat, Echo
from weft.frontend.server.openai.models import check_length, kept_of, prompts_of, saying_shortage, truncated
from weft.frontend.server.openai.params import completion_params, is_mute
from weft.frontend.server.openai.parsing import (
    CHATS,
    COMPLETIONS,
    TOKENIZER,
    chat_request,
    completion_request,
    detokenize_request,
    tokenize_request,
)
from weft.frontend.server.openai.records import ChatCompletion, Completion, Text, Tokens
from weft.frontend.server.openai.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeRequest,
)
from weft.frontend.server.operations import Api
from weft.frontend.server.replies import json_response
from weft.frontend.text_worker.jobs import Detokenize, Tokenize

OPENAI = Api(left_aside=CHATS.left_aside | COMPLETIONS.left_aside | TOKENIZER.left_aside)
HELLO = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 64}
user = partial(OPENAI.route, "POST", access=Access.USER)


class OpenAIEndpoints:
    """Clients differ in whether their base URL ends with /v1."""

    def __init__(self, chats: Chats) -> None:
        self._chats, self._service = chats, chats.service
        self._model, self._engines = chats.service.model, chats.service.engines

    @user(
        "/v1/chat/completions", "/chat/completions", says="A conversation goes on; `stream` for events",
        takes=(ChatRequest,), gives=ChatCompletion, events=(str,), example=HELLO,
    )  # fmt: skip
    async def chat(self, request: Request) -> Response:
        self._engines.check_room(1)
        asked = await self._service.read(request, partial(chat_request, defaults=self._model.defaults))

        def bodies(begun: BegunChat) -> Bodies:
            reasoning = asked.include_reasoning
            form = ChatFormat(self._model.tokenizer, begun.shown, begun.ids, begun.rules, reasoning=reasoning)
            return Bodies(form, asked, self._service.fingerprint, always_usage=self._service.always_usage)

        return await self._chats.answer(request, asked, ChatWay(ChatFormat.prefix, bodies))

    @user(
        "/v1/completions", "/completions", says="Texts or token ids go on; `stream` for events",
        takes=(CompletionRequest,), gives=Completion, events=(str,), example={"prompt": "A loom is", "max_tokens": 16},
    )  # fmt: skip
    async def complete(self, request: Request) -> Response:
        service, limits = self._service, self._engines.check_room(1)
        parse = partial(completion_request, defaults=self._model.defaults, longest=limits.max_model_len)
        with saying_shortage(limits):
            asked = await service.read(request, parse)
        self._model.check_name(asked.model)
        given = prompts_of(asked.prompt)
        params, shown = completion_params(asked, len(given), self._model.vocab_size, limits.max_logprobs)
        params, headers = await service.ruled(request, asked, params)
        limits = self._engines.check_room(params.n * len(given))
        with saying_shortage(limits):
            prompts = await self._prompts(request, asked, given, limits)
            for ids in prompts:
                check_length(ids, asked.max_tokens, limits.max_model_len, "prompt")
        echoes = [self._echo(one, ids) for one, ids in zip(given, prompts, strict=True) for _ in range(asked.n)]
        skip = self._model.tokenizer.skipped(params.skip_special_tokens)
        form = CompletionFormat(self._model.tokenizer, shown, echoes, echo=asked.echo, skip=skip)
        bodies = Bodies(form, asked, service.fingerprint, always_usage=service.always_usage)
        return service.reply(asked, prompts, params, bodies, form.prefix, mute=is_mute(asked), headers=headers)

    async def _prompts(
        self, request: Request, asked: CompletionRequest, given: list[Any], limits: Limits
    ) -> list[list[int]]:
        texts = [one for one in given if isinstance(one, str)]
        longest = limits.max_model_len if asked.truncate_prompt_tokens is None else None
        self._model.check_bytes(texts, longest, "prompt")
        keep = kept_of(asked.truncate_prompt_tokens, limits.max_model_len)
        job = Tokenize(texts, asked.add_special_tokens, longest, "prompt", keep, self._model.special_in_prompts)
        found = iter(await self._service.run(request, job))
        prompts = [next(found) if isinstance(one, str) else self._model.checked(one, "prompt") for one in given]
        return [truncated(ids, asked.truncate_prompt_tokens, limits.max_model_len) for ids in prompts]

    def _echo(self, given: object, ids: list[int]) -> Echo:
        return Echo(given if isinstance(given, str) else self._model.tokenizer.decode(ids), ids)

    @user(
        "/tokenize", says="`prompt`, or `messages` through the chat template, to ids",
        takes=(TokenizeRequest, TokenizeChatRequest), gives=Tokens, example={"prompt": "A loom"},
    )  # fmt: skip
    async def tokenize(self, request: Request) -> Response:
        asked = await self._service.read(request, tokenize_request)
        self._model.check_name(asked.model)
        limits = self._engines.check_ready()
        if isinstance(asked, TokenizeChatRequest):
            ids = await self._chats.ids_of(request, asked)
        else:
            job = Tokenize([asked.prompt], asked.add_special_tokens, special=self._model.special_in_prompts)
            (ids,) = await self._service.run(request, job)
        words = [self._model.tokenizer.token(token) for token in ids] if asked.return_token_strs else None
        found = Tokens(len(ids), limits.max_model_len, ids, words)
        return json_response(found)

    @user(
        "/detokenize", says="Ids to text, special tokens written out",
        takes=(DetokenizeRequest,), gives=Text, example={"tokens": [1, 2]},
    )  # fmt: skip
    async def detokenize(self, request: Request) -> Response:
        asked = await self._service.read(request, detokenize_request)
        self._model.check_name(asked.model)
        text = await self._service.run(request, Detokenize(self._model.checked(asked.tokens, "tokens")))
        return json_response(Text(text))
