"""Requests' jobs for the text worker, and what they make of a request. A job of a client that left is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace
from starlette.requests import ClientDisconnect, Request

from weft.base.log import get_logger
from weft.base.step.sampling_params import SamplingParams, check
from weft.compute.grammars.constraints import Grammar
from weft.frontend.server.openai.models import Conversation, ServedModel, prompts_of
from weft.frontend.server.openai.requests import ChatFields, Prompt
from weft.frontend.server.openai.structured import MAX_SHOWN, Guided, constraint_of, left_out_header
from weft.frontend.text_worker.client import Texts
from weft.frontend.text_worker.jobs import CheckGrammar, Job, Tokenize

_log = get_logger(__name__)


async def result_of(texts: Texts, request: Request, job: Job) -> Any:
    """What the job gives; its turn is that of the request's connection. ClientDisconnect: the client left before it
    had ended. RequestError: it is refused."""
    future = asyncio.wrap_future(texts.submit(job, request.scope.get("client")))
    left = asyncio.ensure_future(_until_left(request))
    try:
        await asyncio.wait((future, left), return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise ClientDisconnect
        return future.result()
    finally:
        left.cancel()
        future.cancel()


async def tokenized(texts: Texts, request: Request, job: Tokenize) -> list[list[int]]:
    """The ids of long texts: the text worker's process bounds their time and memory."""
    found: list[list[int]] = await result_of(texts, request, job)
    return found


async def chat_text(model: ServedModel, request: Request, conversation: Conversation) -> str:
    """The prompt of a conversation. RequestError: the template refuses it, or passes a bound."""
    return conversation.text(await result_of(model.texts, request, conversation.render))


async def chat_ids(
    model: ServedModel, request: Request, asked: ChatFields, text: str, max_model_len: int | None, keep: int | None
) -> list[int]:
    """The ids of a long conversation; `keep`: only so many of its last ids."""
    job = Tokenize([text], asked.add_special_tokens, max_model_len, "messages", keep)
    return (await tokenized(model.texts, request, job))[0]


async def prompt_ids(
    model: ServedModel,
    request: Request,
    prompt: Prompt,
    add_special_tokens: bool,
    max_model_len: int | None,
    keep: int | None,
) -> list[list[int]]:
    """`ServedModel.prompt_ids` of long texts, by the text worker; `keep`: only so many of the last ids of each."""
    given = prompts_of(prompt)
    words = [one for one in given if isinstance(one, str)]
    job = Tokenize(words, add_special_tokens, max_model_len, "prompt", keep)
    ids = iter(await tokenized(model.texts, request, job))
    return [next(ids) if isinstance(one, str) else model.checked(one, "prompt") for one in given]


async def _until_left(request: Request) -> None:
    """The request's body has been read: what comes next says that the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def with_grammar(
    request: Request, asked: Guided, params: SamplingParams, model: ServedModel
) -> tuple[SamplingParams, Mapping[str, str]]:
    """`params` with the grammar that the request asks for, and the answer's headers about it."""
    constraint = constraint_of(asked, open_objects=model.forms.open_objects)
    if constraint is None:
        return params, {}
    found: Grammar = await result_of(model.texts, request, CheckGrammar(constraint))
    if found.left_out:
        _log.warning("keywords of a schema are left out: %s", "; ".join(found.left_out)[:MAX_SHOWN])
    for note in found.notes:
        _log.info("%s", note)
    guided = replace(params, grammar=found.text)
    check(guided, model.vocab_size)
    return guided, left_out_header(found.left_out)
