"""Requests' jobs with texts, and what they make of a request. A job of a client that left is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace
from starlette.requests import ClientDisconnect, Request

from weft.base.log import get_logger
from weft.base.step.sampling_params import SamplingParams, check
from weft.compute.grammars.constraints import Grammar
from weft.engine.text.bad_words import with_bad_runs
from weft.frontend.server.openai.models import ServedModel
from weft.frontend.server.openai.structured import MAX_SHOWN, Guided, constraint_of, left_out_header
from weft.frontend.text_worker.jobs import BadRuns, CheckGrammar, Job
from weft.frontend.text_worker.texts import Texts

_log = get_logger(__name__)


async def result_of(texts: Texts, request: Request, job: Job) -> Any:
    """What the job gives; its turn is that of the request's connection. ClientDisconnect: the client left before it
    had ended. RequestError: it is refused."""
    submitted = texts.submit(job, request.scope.get("client"))
    if submitted.done():
        return submitted.result()
    future = asyncio.wrap_future(submitted)
    left = asyncio.ensure_future(_until_left(request))
    try:
        await asyncio.wait((future, left), return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise ClientDisconnect
        return future.result()
    finally:
        left.cancel()
        future.cancel()


async def _until_left(request: Request) -> None:
    """The request's body has been read: what comes next says that the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def with_rules(
    request: Request, asked: Guided, params: SamplingParams, model: ServedModel
) -> tuple[SamplingParams, Mapping[str, str]]:
    """`params` with the runs of its bad words and the grammar that the request asks for, and the answer's headers about
    it."""
    if params.bad_words:
        runs = await result_of(model.texts, request, BadRuns(params.bad_words))
        params = with_bad_runs(params, runs, model.vocab_size)
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
