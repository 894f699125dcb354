"""Service: what the endpoints of all APIs share: bodies in, jobs with texts, replies out.

A request comes through `http/gate.py` to a method of one of the classes that `routes.py` names. It reads its body here,
makes prompts of it (`chats.py`, or `openai/endpoints.py` of a text), and gives them to the engines with the form of the
reply (`replies.py`).
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.choice import Choice
from weft.frontend.server.fields.notes import Notes, keep_notes
from weft.frontend.server.http.access import Keys
from weft.frontend.server.http.body import BodyBudget, off_loop, read_body
from weft.frontend.server.http.gate import Gate
from weft.frontend.server.http.hosts import Hosts
from weft.frontend.server.http.memory import MemoryGuard
from weft.frontend.server.metrics.metrics import Metrics
from weft.frontend.server.openai.models import ServedModel
from weft.frontend.server.openai.requests import Common
from weft.frontend.server.replies import Answer, EventReply, ReplyForm, WholeReply
from weft.frontend.server.text_jobs import result_of, with_rules
from weft.frontend.serving.replicas import Replicas
from weft.frontend.text_worker.jobs import Job

QUEUE_TIMEOUT_S = 600.0
"""Seconds that a request may wait before its first step, where nothing else is said."""

T = TypeVar("T")


class Service:
    """All replicas of one model. `always_usage`: the last chunk of every stream has the usage, whether or not it is
    asked for. `strict`: requests have no field that this server does not know."""

    def __init__(
        self,
        engines: Replicas,
        model: ServedModel,
        keys: Keys | None = None,
        *,
        hosts: Hosts = Hosts(),  # noqa: B008
        queue_timeout_s: float = QUEUE_TIMEOUT_S,
        always_usage: bool = False,
        strict: bool = False,
    ) -> None:
        self.engines, self.model, self.gate = engines, model, Gate(hosts, keys or Keys())
        self.metrics = Metrics(engines, model.name)
        self.always_usage, self.fingerprint = always_usage, engines.fingerprint
        self._queue_timeout_s, self._strict, self._logged = queue_timeout_s, strict, set[str]()
        self._bodies, self._memory = BodyBudget(), MemoryGuard()
        self._draw = random.Random(secrets.randbits(128))

    async def read(self, request: Request, parse: Callable[[bytes, Notes], T]) -> T:
        """The request's body as a record."""
        self._memory.check()
        notes = Notes(self._logged, strict=self._strict)
        keep_notes(request, notes)
        body = await read_body(request, self._bodies)
        length = len(body)
        try:
            return await off_loop(length, parse, body, notes)
        finally:
            self._bodies.give_back(length)

    async def run(self, request: Request, job: Job) -> Any:
        """What a job with texts gives. RequestError: it is refused."""
        return await result_of(self.model.texts, request, job)

    async def ruled(
        self, request: Request, asked: Common, params: SamplingParams
    ) -> tuple[SamplingParams, Mapping[str, str]]:
        """`params` with bad words and the grammar that is asked for, and the answer's headers about it."""
        return await with_rules(request, asked, params, self.model)

    def reply(
        self,
        asked: Common,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        form: ReplyForm,
        prefix: str,
        *,
        mute: bool = False,
        kept: frozenset[int] = frozenset(),
        headers: Mapping[str, str],
    ) -> Response:
        """Submits the prompts. `prefix`: of the answer's id. `mute`: only the prompt is wanted. `kept`: special tokens
        that stay in the text."""
        answer_id = f"{prefix}{self._draw.getrandbits(128):032x}"
        stream = self.engines.submit(answer_id, prompts, params, whole=not asked.stream)
        choices = [
            Choice(self.model.tokenizer, prompt_ids=ids, params=params, mute=mute, kept=kept)
            for ids in prompts
            for _ in range(params.n)
        ]
        patience = min(asked.timeout or self._queue_timeout_s, self._queue_timeout_s)
        head = (answer_id, int(time.time()), self.model.name)
        answer = Answer(*head, stream, choices, form, self.metrics, patience, headers=headers)
        return EventReply(self.engines, answer) if asked.stream else WholeReply(self.engines, answer)
