"""weft.LLM: the engine from Python, offline. The same ranks, scheduler and sampling as the server, without HTTP.

with weft.LLM("path/to/model", layout={"attention.dp": 2, "dense.tp": 2}) as llm:
    print(llm.generate("The sky is")[0].outputs[0].text)
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, cast

from weft.base.errors import ConfigError, PeerError, RequestError, UsageError
from weft.base.log import get_logger
from weft.base.settings import EngineConfig
from weft.base.step.defaults import recommended
from weft.base.step.sampling_params import SamplingParams
from weft.compute.native.build import ensure_built
from weft.engine.core.choice import Choice, ChoiceDelta
from weft.engine.core.outputs import FinishReason, RequestOutput
from weft.engine.text import Tokenizer
from weft.frontend.llm_inputs import (
    LayoutLike,
    Messages,
    Prompt,
    as_checkpoint,
    as_conversations,
    as_engine_config,
    as_layout,
    as_params,
    as_prompts,
    check_given_once,
    engine_params,
    meet_hosts,
    only,
)
from weft.frontend.llm_outputs import CompletionOutput, Result
from weft.frontend.serving.offline import OfflineEngines
from weft.frontend.text_worker.conversations import Conversations
from weft.frontend.text_worker.handler import Handler
from weft.frontend.text_worker.jobs import Begin
from weft.frontend.text_worker.texts import Texts
from weft.model.checkpoint import Checkpoint
from weft.runtime.ipc.report import RankReport
from weft.runtime.launch_plan.hosts import HostResources, HostsConfig
from weft.runtime.launch_plan.plan import LaunchPlan, plan_launch
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.processes import Spawner
from weft.runtime.supervisor.start import Listener

_log = get_logger(__name__)


class LLM:
    """A model under a layout, ready to answer; prompts are spread over its replicas.

    Usable from one thread at a time; `close` (or `with`) ends the ranks.
    """

    def __init__(
        self,
        model: Checkpoint | str | os.PathLike[str] | None = None,
        *,
        layout: LayoutLike | None = None,
        tp: int | None = None,
        world_size: int | None = None,
        comm: str = "auto",
        verify_checkpoint: str | None = None,
        config: EngineConfig | None = None,
        listener: Listener | None = None,
        nnodes: int | None = None,
        hosts: HostsConfig | None = None,
        met: tuple[AgentPool | None, list[HostResources]] | None = None,
        text_worker: Texts | None = None,
        **engine: Any,
    ) -> None:
        """`model`: a directory, a .gguf file or a hub id; None: the embedded model. `engine`: fields of EngineConfig,
        or `config` for all of them. `verify_checkpoint`: auto (the default), strict or none, see `check_hashes`;
        a Checkpoint is taken as it is. `nnodes`: hosts that the ranks are on, of which this is host 0; `hosts` says
        where they meet, and the others run `weft serve` with their --node-rank; `met`: of hosts that are here already,
        which are the LLM's to close. `text_worker`: renders conversations; None: one starts at the first of them.
        `listener` hears of every rank's start-up phases.

        ConfigError, LayoutError, CheckpointError: it cannot run. PeerError: a rank died while starting.
        """
        ensure_built(say=_log.warning)
        check_given_once(model, verify_checkpoint, layout, world_size, tp)
        settings = as_engine_config(config, engine)
        with contextlib.closing(Spawner()) as spawner:
            spawner.start_ahead()
            checkpoint = as_checkpoint(model, verify_checkpoint, _log.warning)
            resolved = as_layout(layout, checkpoint, nnodes, world_size, tp)
            pool, resources = met or meet_hosts(hosts, resolved, settings, checkpoint, comm, _log.info)
            with contextlib.ExitStack() as unless_planned:
                if pool is not None:
                    unless_planned.callback(pool.close)
                plan = plan_launch(checkpoint, resolved, settings, comm, hosts=resources)
                unless_planned.pop_all()
            spawner.start_ahead(sum(host == 0 for host in plan.host_of))
            plan = self._prepare_texts(checkpoint, plan, text_worker)
            for note in () if checkpoint is model else self.tokenizer.notes:
                _log.warning(note)
            self._engines = OfflineEngines(plan, listener, spawner, pool)
        self._finalizer = weakref.finalize(self, _close, self._engines, self._conversations)
        self._plan = self._engines.plan
        self._requests = 0
        self._busy = threading.Lock()

    def _prepare_texts(self, checkpoint: Checkpoint, plan: LaunchPlan, text_worker: Texts | None) -> LaunchPlan:
        """Makes the tokenizer and what goes with it; returns the plan with its vocabulary."""
        self.tokenizer = Tokenizer.from_checkpoint(checkpoint)
        size = plan.config.vocab_size
        vocabulary = self.tokenizer.vocabulary(size, plan.eos_token_ids)
        plan = plan.with_vocabulary(self.tokenizer.eos_token_ids, vocabulary)
        self._texts = Handler(self.tokenizer, size, plan.eos_token_ids)
        self._conversations = Conversations(Begin.of(checkpoint, size), text_worker)
        self.recommended = recommended(checkpoint.generation_config, checkpoint.generation_path)
        """The model's own sampling values."""
        return plan

    @property
    def plan(self) -> LaunchPlan:
        """What was started: layout, resolved settings, memory, collectives."""
        return self._plan

    def reports(self) -> list[RankReport]:
        """Where every rank is, and what it has done."""
        return self._engines.reports()

    def default_params(self, **changes: Any) -> SamplingParams:
        """SamplingParams with the model's recommended values, `changes` on top; UsageError for an unknown name."""
        unknown = set(changes) - set(SamplingParams.__struct_fields__)
        if unknown:
            raise UsageError(f"SamplingParams has no {', '.join(sorted(unknown))}")
        return SamplingParams(**{**self.recommended, **changes})

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Result]:
        """A result for each prompt, in order; `params` for all, or one for each. An answer ends with the context, of
        whatever `max_tokens`. Ctrl-C drops what is not whole; the next call can follow.

        RequestError: a prompt or a parameter that cannot be served (nothing is run then). PeerError: a rank died.
        UsageError: it is closed.
        """
        pairs = [(one if isinstance(one, str) else None, self._ids(one)) for one in as_prompts(prompts)]
        return self._results(pairs, self._params_of(params, len(pairs), self.default_params()))

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        add_generation_prompt: bool = True,
    ) -> list[Result]:
        """A result for each conversation, through the chat template; without `params` up to the context's end."""
        pairs = [self._templated(one, add_generation_prompt) for one in as_conversations(messages)]
        return self._results(pairs, self._params_of(params, len(pairs), self.default_params(max_tokens=None)))

    def stream(
        self, prompt: Prompt | Messages, params: SamplingParams | None = None, *, chat: bool = False
    ) -> Iterator[tuple[int, ChoiceDelta]]:
        """(output index, what is new in it) as it comes; `chat`: the prompt is a conversation. Nothing else can be
        asked for before it has been read to its end, or its `close()`. RequestError: as of `generate`, or several."""
        if chat:
            ids = self._templated(only(as_conversations(cast("Messages", prompt)), "conversation"), True)[1]
        else:
            ids = self._ids(only(as_prompts(cast("Prompt", prompt)), "prompt"))
        chosen = self._params_of(params, 1, self.default_params(max_tokens=None))
        for _, index, piece, _ in self._run([ids], chosen):
            yield index, piece

    def close(self) -> None:
        """Ends the ranks; safe to call twice."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ids(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def _templated(self, messages: Messages, add_generation_prompt: bool) -> tuple[str, list[int]]:
        if not self.tokenizer.has_chat_template:
            raise RequestError("the model has no chat template: give a text to generate", param="messages")
        text = self._conversations.prompt(messages, add_generation_prompt=add_generation_prompt)
        return text, self.tokenizer.encode(text, add_special_tokens=False)

    def _params_of(
        self, params: SamplingParams | Sequence[SamplingParams] | None, count: int, default: SamplingParams
    ) -> list[SamplingParams]:
        return engine_params(self._texts, as_params(params, count, default), self._plan.config.vocab_size)

    def _results(self, pairs: Sequence[tuple[str | None, list[int]]], params: list[SamplingParams]) -> list[Result]:
        results = [
            Result(text, ids, [CompletionOutput(i) for i in range(one.n)])
            for (text, ids), one in zip(pairs, params, strict=True)
        ]
        for number, index, piece, record in self._run([ids for _, ids in pairs], params):
            output = results[number].outputs[index]
            output.text += piece.text
            output.token_ids += record.new_token_ids
            output.logprobs += piece.logprobs
            output.finish_reason = piece.finish_reason
            output.stop_reason = piece.stop_reason
            results[number].cached_tokens = record.cached_tokens
            if index == 0:
                results[number].prompt_logprobs += piece.prompt_logprobs
        return results

    def _run(
        self, prompts: Sequence[list[int]], params: Sequence[SamplingParams]
    ) -> Iterator[tuple[int, int, ChoiceDelta, RequestOutput]]:
        """(prompt, output, what is new in it, the engine's record) until all have ended."""
        if not self._busy.acquire(blocking=False):
            raise ConfigError(
                "this LLM is generating already: a stream that is not read to its end is until its close();"
                " use one LLM from one thread at a time"
            )
        numbers: dict[str, int] = {}
        with self._engines.unbroken as unbroken:
            try:
                self._add(numbers, prompts, params)
                choices = [
                    [Choice(self.tokenizer, ids, one) for _ in range(one.n)]
                    for ids, one in zip(prompts, params, strict=True)
                ]
                yield from self._follow(numbers, choices)
            finally:
                unbroken.run(lambda: self._drop(numbers))

    def _add(self, numbers: dict[str, int], prompts: Sequence[list[int]], params: Sequence[SamplingParams]) -> None:
        if not self._finalizer.alive and self._engines.failure is None:
            raise UsageError("this LLM is closed: make another one")
        for number, (ids, one) in enumerate(zip(prompts, params, strict=True)):
            request_id = str(self._requests)
            self._requests += 1
            numbers[request_id] = number
            self._engines.add_request(request_id, ids, one)

    def _drop(self, numbers: Iterable[str]) -> None:
        for request_id in numbers:
            self._engines.abort(request_id)
        self._busy.release()

    def _follow(
        self, numbers: Mapping[str, int], choices: Sequence[Sequence[Choice]]
    ) -> Iterator[tuple[int, int, ChoiceDelta, RequestOutput]]:
        for outputs in self._outputs():
            for record in outputs:
                # Records of requests that an earlier, abandoned call aborted may still come.
                number = numbers.get(record.request_id)
                if number is None or record.finish_reason is FinishReason.ABORT:
                    continue
                choice = choices[number][record.index]
                piece = choice.add([record])
                if piece is None:
                    continue
                if choice.stopped_by is not None and record.finish_reason is None:
                    self._engines.stop_request(record.request_id, choice.stopped_by, index=record.index)
                yield number, record.index, piece, record

    def _outputs(self) -> Iterator[Iterable[RequestOutput]]:
        try:
            yield from self._engines.outputs()
        except PeerError:
            self.close()
            raise


def _close(engines: OfflineEngines, conversations: Conversations) -> None:
    conversations.close()
    engines.close()
