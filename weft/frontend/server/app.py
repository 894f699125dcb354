"""Service: OpenAI's text endpoints, and the way from any API's request to a stream of the engine."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.choice import Choice
from weft.engine.core.limits import Limits
from weft.engine.text.bad_words import with_bad_runs
from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.tools import ToolUse
from weft.frontend.server.answer_grammars import AnswerGrammars
from weft.frontend.server.http.access import Keys
from weft.frontend.server.http.body import BodyBudget, read_body
from weft.frontend.server.http.gate import Gate
from weft.frontend.server.http.hosts import Hosts
from weft.frontend.server.http.memory import MemoryGuard
from weft.frontend.server.metrics.metrics import Metrics
from weft.frontend.server.openai.base import Shown
from weft.frontend.server.openai.bodies import Bodies
from weft.frontend.server.openai.formats import ChatFormat, CompletionFormat, Echo
from weft.frontend.server.openai.messages import checked_messages, text_size
from weft.frontend.server.openai.models import (
    ChatPrompt,
    Conversation,
    ServedModel,
    check_length,
    kept_of,
    prompts_of,
    saying_shortage,
    truncated,
)
from weft.frontend.server.openai.params import chat_params, completion_params, is_mute
from weft.frontend.server.openai.parsing import chat_request, completion_request, detokenize_request, tokenize_request
from weft.frontend.server.openai.records import Text, Tokens
from weft.frontend.server.openai.requests import ChatFields, ChatRequest, Common, CompletionRequest, TokenizeChatRequest
from weft.frontend.server.openai.tool_fields import tool_use
from weft.frontend.server.replies import Answer, EventReply, ReplyForm, WholeReply
from weft.frontend.server.text_jobs import chat_ids, chat_text, prompt_ids, with_grammar
from weft.frontend.serving.replicas import Replicas
from weft.frontend.text_worker.jobs import LONG_TEXT

QUEUE_TIMEOUT_S = 600.0
"""Seconds that a request may wait before its first step, where nothing else is said."""

SHORT = 4096
"""Characters, or token ids, that are turned into a prompt in the event loop: about 2 ms."""
COST_OF_MESSAGE = 64
"""Characters of text that a message weighs as it is made ready for a chat template."""

T = TypeVar("T")


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


class Service:
    """The endpoints over all replicas of one model."""

    def __init__(
        self,
        engines: Replicas,
        model: ServedModel,
        keys: Keys | None = None,
        *,
        hosts: Hosts = Hosts(),  # noqa: B008
        queue_timeout_s: float = QUEUE_TIMEOUT_S,
        always_usage: bool = False,
    ) -> None:
        """`always_usage`: the last chunk of every stream has the usage, whether or not it is asked for."""
        self.engines, self.model, self.gate = engines, model, Gate(hosts, keys or Keys())
        self.metrics = Metrics(engines, model.name)
        self._queue_timeout_s = queue_timeout_s
        self._grammars = AnswerGrammars(model.texts, model.words, model.vocab_size)
        self._always_usage, self._fingerprint = always_usage, engines.fingerprint
        self._bodies, self._memory = BodyBudget(), MemoryGuard()
        self._draw = random.Random(secrets.randbits(128))
        # Two threads: a long prompt that is being tokenized does not hold up a short one.
        self._tokenizing = ThreadPoolExecutor(2, thread_name_prefix="tokenize")

    async def chat(self, request: Request) -> Response:
        """/v1/chat/completions."""
        self.engines.check_room(1)
        asked = await self.read(request, partial(chat_request, defaults=self.model.defaults))

        def bodies(begun: BegunChat) -> ReplyForm:
            shown, ids, rules = begun.shown, begun.ids, begun.rules
            form = ChatFormat(self.model.tokenizer, shown, ids, rules, reasoning=asked.include_reasoning)
            return Bodies(form, asked, self._fingerprint, always_usage=self._always_usage)

        return await self.answer(request, asked, ChatWay(ChatFormat.prefix, bodies))

    async def answer(self, request: Request, asked: ChatRequest, way: ChatWay) -> Response:
        """The reply to a chat of any API, whose request has OpenAI's fields."""
        most = self.engines.check_room(1).max_logprobs
        self.model.check_name(asked.model)
        self.model.check_chat(asked)
        messages = checked_messages(asked.messages)
        use = tool_use(asked.tools, asked.tool_choice, asked.parallel_tool_calls, self.model.forms)
        params, shown = chat_params(asked, self.model.vocab_size, most)
        params, headers = await self._with_grammar(request, asked, await self._without_words(params))
        limits = self.engines.check_room(params.n)
        texts = [message["content"] for message in messages if "content" in message]
        longest = limits.max_model_len if asked.truncate_prompt_tokens is None else None
        with saying_shortage(limits):
            self.model.check_bytes(texts, longest, "messages")
            keep = kept_of(asked.truncate_prompt_tokens, limits.max_model_len)
            prompt = await self._chat_prompt(request, asked, messages, use, longest, keep)
            ids = truncated(prompt.ids, asked.truncate_prompt_tokens, limits.max_model_len)
            if way.clips and params.max_tokens is not None and len(ids) + params.max_tokens > limits.max_model_len:
                params = replace(params, max_tokens=None)
            check_length(ids, params.max_tokens, limits.max_model_len, "messages")
        budget = asked.thinking_token_budget
        rules = AnswerRules(forms=self.model.forms, use=use, thinking=prompt.thinking, budget=budget)
        params, headers = await self._grammars.of(request, rules, params, headers)
        form = way.form(BegunChat(ids, rules, shown))
        kept = frozenset[int]() if rules.plain else self.model.kept_ids
        return self._reply(asked, [ids], params, form, way.prefix, mute=way.mute, kept=kept, headers=headers)

    async def complete(self, request: Request) -> Response:
        """/v1/completions."""
        limits = self.engines.check_room(1)
        parse = partial(completion_request, defaults=self.model.defaults, longest=limits.max_model_len)
        with saying_shortage(limits):
            asked = await self.read(request, parse)
        self.model.check_name(asked.model)
        given = prompts_of(asked.prompt)
        params, shown = completion_params(asked, len(given), self.model.vocab_size, limits.max_logprobs)
        params, headers = await self._with_grammar(request, asked, await self._without_words(params))
        limits = self.engines.check_room(params.n * len(given))
        with saying_shortage(limits):
            prompts = await self._prompts(request, asked, given, limits)
            for ids in prompts:
                check_length(ids, asked.max_tokens, limits.max_model_len, "prompt")
        echoes = [self._echo(one, ids) for one, ids in zip(given, prompts, strict=True) for _ in range(asked.n)]
        skip = self.model.tokenizer.skipped(params.skip_special_tokens)
        form = CompletionFormat(self.model.tokenizer, shown, echoes, echo=asked.echo, skip=skip)
        bodies = Bodies(form, asked, self._fingerprint, always_usage=self._always_usage)
        return self._reply(asked, prompts, params, bodies, form.prefix, mute=is_mute(asked), headers=headers)

    async def _chat_prompt(
        self,
        request: Request,
        asked: ChatFields,
        messages: list[dict[str, Any]],
        use: ToolUse,
        longest: int | None,
        keep: int | None,
    ) -> ChatPrompt:
        """`longest`: most tokens. `keep`: how many of the last ids are needed."""
        conversation = await self._conversation(asked, messages, use)
        text = await chat_text(self.model, request, conversation)
        thinking = self.model.thinking(text, conversation)
        if len(text) > LONG_TEXT:
            return ChatPrompt(await chat_ids(self.model, request, asked, text, longest, keep), thinking)
        ids = partial(self.model.ids, text, asked.add_special_tokens, longest, "messages")
        return ChatPrompt(await self._tokenized(len(text), ids), thinking)

    async def _conversation(self, asked: ChatFields, messages: list[dict[str, Any]], use: ToolUse) -> Conversation:
        size = sum(map(text_size, messages)) + COST_OF_MESSAGE * len(messages) + text_size({"tools": asked.tools})
        return await self._tokenized(size, partial(self.model.conversation, asked, messages, use))

    async def _prompts(
        self, request: Request, asked: CompletionRequest, given: list[object], limits: Limits
    ) -> list[list[int]]:
        texts = [one for one in given if isinstance(one, str)]
        longest = limits.max_model_len if asked.truncate_prompt_tokens is None else None
        self.model.check_bytes(texts, longest, "prompt")
        if sum(map(len, texts)) > LONG_TEXT:
            keep = kept_of(asked.truncate_prompt_tokens, limits.max_model_len)
            words = (asked.prompt, asked.add_special_tokens, longest, keep)
            prompts = await prompt_ids(self.model, request, *words)
        else:
            ids = partial(self.model.prompt_ids, asked.prompt, asked.add_special_tokens, longest)
            prompts = await self._tokenized(sum(len(one) for one in given if isinstance(one, str | list)), ids)
        return [truncated(ids, asked.truncate_prompt_tokens, limits.max_model_len) for ids in prompts]

    def _echo(self, given: object, ids: list[int]) -> Echo:
        return Echo(given if isinstance(given, str) else self.model.tokenizer.decode(ids), ids)

    def _reply(
        self,
        asked: Common,
        prompts: list[list[int]],
        params: SamplingParams,
        form: ReplyForm,
        prefix: str,
        *,
        mute: bool = False,
        kept: frozenset[int] = frozenset(),
        headers: Mapping[str, str],
    ) -> Response:
        answer_id = f"{prefix}{self._draw.getrandbits(128):032x}"
        stream = self.engines.submit(answer_id, prompts, params, whole=not asked.stream)
        make = partial(Choice, self.model.tokenizer, params=params, mute=mute, kept=kept)
        choices = [make(prompt_ids=ids) for ids in prompts for _ in range(params.n)]
        patience = min(asked.timeout or self._queue_timeout_s, self._queue_timeout_s)
        head = (answer_id, int(time.time()), self.model.name)
        answer = Answer(*head, stream, choices, form, self.metrics, patience, headers=headers)
        return EventReply(self.engines, answer) if asked.stream else WholeReply(self.engines, answer)

    async def read(self, request: Request, parse: Callable[[bytes], T]) -> T:
        """The request's body as a record."""
        self._memory.check()
        body = await read_body(request, self._bodies)
        length = len(body)
        try:
            return await self._tokenized(length // 8, partial(parse, body))
        finally:
            self._bodies.give_back(length)

    async def _without_words(self, params: SamplingParams) -> SamplingParams:
        made = partial(with_bad_runs, self.model.tokenizer, params, self.model.vocab_size)
        return await self._tokenized(2 * sum(map(len, params.bad_words)), made)

    async def _with_grammar(
        self, request: Request, asked: Common, params: SamplingParams
    ) -> tuple[SamplingParams, Mapping[str, str]]:
        return await with_grammar(request, asked, params, self.model)

    async def _tokenized(self, size: int, function: Callable[[], T]) -> T:
        """`function`, in a thread where `size` says that it takes long: handing over takes longer than a short text."""
        return function() if size <= SHORT else await self._in_thread(function)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, function)

    async def tokenize(self, request: Request) -> Response:
        """/tokenize: of a text or of a conversation."""
        asked = await self.read(request, tokenize_request)
        self.model.check_name(asked.model)
        limits = self.engines.check_ready()
        if isinstance(asked, TokenizeChatRequest):
            ids = await self.ids_of(request, asked)
        else:
            ids = (await prompt_ids(self.model, request, asked.prompt, asked.add_special_tokens, None, None))[0]
        words = [self.model.tokenizer.token(token) for token in ids] if asked.return_token_strs else None
        found = Tokens(len(ids), limits.max_model_len, ids, words)
        return Response(msgspec.json.encode(found), media_type="application/json")

    async def ids_of(self, request: Request, asked: ChatFields) -> list[int]:
        """The prompt of a conversation."""
        self.model.check_name(asked.model)
        self.engines.check_ready()
        self.model.check_chat(asked)
        messages = checked_messages(asked.messages)
        choice = asked.tool_choice if isinstance(asked, ChatRequest) else "auto"
        use = tool_use(asked.tools, choice, True, self.model.forms)
        text = await chat_text(self.model, request, await self._conversation(asked, messages, use))
        return await chat_ids(self.model, request, asked, text, None, None)

    async def detokenize(self, request: Request) -> Response:
        """/detokenize: special tokens are written out."""
        asked = await self.read(request, detokenize_request)
        self.model.check_name(asked.model)

        def text() -> bytes:
            ids = self.model.checked(asked.tokens, "tokens")
            return msgspec.json.encode(Text(self.model.tokenizer.decode(ids, skip_special_tokens=False)))

        return Response(await self._tokenized(len(asked.tokens), text), media_type="application/json")

    def answered(self, handler: str, method: str, status: int, seconds: float) -> None:
        """Any HTTP answer, for /metrics."""
        self.metrics.answered(handler, method, status, seconds)

    def close(self) -> None:
        """Lets the tokenizing threads go."""
        self._tokenizing.shutdown(wait=False, cancel_futures=True)
