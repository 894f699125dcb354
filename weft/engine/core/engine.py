"""Engine: requests in, outputs out. Not thread-safe.

A step: schedule  ->  run on the executor  ->  process the results
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add

from weft.base.errors import PeerError, RequestError, WeftError
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.admission import Admission
from weft.engine.core.coordinator import Coordinator
from weft.engine.core.executor import Executor
from weft.engine.core.grammar_compiles import GrammarCompiles
from weft.engine.core.limits import limits_of
from weft.engine.core.outputs import EngineStats, FinishReason, Outputs, RequestOutput
from weft.engine.core.request import Request
from weft.engine.core.results import output_of
from weft.engine.core.scheduler.prefill_throttle import PrefillThrottle
from weft.engine.core.scheduler.scheduler import Scheduler
from weft.engine.core.step_loop import StepLoop, lanes_of
from weft.parallel.experts.balancing.expert_balancing import ExpertBalancing


class Engine:
    """Each output of an admitted request ends with exactly one RequestOutput with a finish_reason, also after errors.

    `config.max_model_len` must be set. The caller closes `executor`. `balancing` moves experts between slots; the ranks
    must have loaded its placement."""

    def __init__(
        self,
        executor: Executor,
        config: EngineConfig,
        eos_token_ids: Iterable[int],
        *,
        vocab_size: int | None = None,
        balancing: ExpertBalancing | None = None,
        keys_per_row: float = 0.0,
    ) -> None:
        """`keys_per_row`: of the model, as of `Limits`; used where pipeline stages run chunks of a prompt one
        after the other."""
        self.executor, self.balancing = executor, balancing
        stages, lanes = executor.layout.pipeline.stages, lanes_of(executor, balancing)
        per_row = keys_per_row if lanes > 1 else 0.0
        self.limits = limits_of(config, executor.num_blocks, per_row, vocab_size, executor.layout)
        self.failed_with: WeftError | None = None
        """What the executor failed with."""
        self.failure: str | None = None
        """Why the engine has stopped for good; None while it works."""
        self._admission = Admission(self.limits, frozenset(eos_token_ids), vocab_size, config.seed)
        throttle = PrefillThrottle(config.prefill_stretch)
        groups = range(executor.layout.attention.dp)
        self._coordinator = Coordinator([Scheduler(self.limits, throttle, lanes) for _ in groups], stages, lanes)
        self._steps = StepLoop(executor, self._coordinator, throttle, balancing)
        self._grammars = GrammarCompiles(executor, self._coordinator.schedulers)
        self._live: dict[str, dict[int, tuple[Request, Scheduler]]] = {}
        self._ended: list[RequestOutput] = []
        self._admitted = 0
        self._arrived = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` would run or report something."""
        runs = self._steps.in_flight or self._coordinator.has_work
        return bool(self._ended) or runs or self._grammars.pending

    def add_request(self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Adds a request. RequestError: it can never run here. PeerError: the engine has failed."""
        if self.failure is not None:
            raise PeerError(f"the engine has stopped: {self.failure}")
        if request_id in self._live or any(output.request_id == request_id for output in self._ended):
            raise RequestError(f"request {request_id!r} is running already", param="request_id")
        requests = self._admission.build(request_id, prompt_ids, params, self._admitted, self._arrived)
        scheduler = self._coordinator.place(requests)
        self._live[request_id] = {request.index: (request, scheduler) for request in requests}
        self._admitted += 1
        self._arrived += len(requests)

    def abort(self, request_id: str) -> bool:
        """Ends every output of a request; the next `step` reports them. False: no such request (any more)."""
        return self._finish(request_id, None, FinishReason.ABORT, None)

    def stop_request(self, request_id: str, stop_reason: str | None = None, *, index: int | None = None) -> bool:
        """Ends output `index` (None: all) with `stop`: the caller found a stop string, `stop_reason`, in its text."""
        return self._finish(request_id, index, FinishReason.STOP, stop_reason)

    def has_run(self, request_id: str) -> bool:
        """Whether a step has run rows of the request, or the request has ended."""
        return request_id not in self._live or self.is_running(request_id)

    def is_running(self, request_id: str) -> bool:
        """Whether a step has run or runs rows of the request, and it has not ended. Safe from any thread while `step`
        waits for the executor."""
        return any(request.admission for request, _ in list(self._live.get(request_id, {}).values()))

    def pause(self, request_id: str) -> None:
        """Frees slots and blocks of the request's outputs that decode, until `resume`; their tokens stay."""
        for request, scheduler in self._live.get(request_id, {}).values():
            scheduler.pause(request)

    def resume(self, request_id: str) -> None:
        """Lets paused outputs run again; they continue where they stopped."""
        for request, scheduler in self._live.get(request_id, {}).values():
            scheduler.resume(request)

    def step(self) -> Outputs:
        """Runs one step of all groups and returns its outputs. If the executor fails, every request ends with its error
        message and the engine stops."""
        reported, self._ended = self._ended, []
        try:
            self._grammars.advance()
            outputs = self._steps.run()
            if self._grammars.pending and not (reported or self._steps.in_flight or self._coordinator.has_work):
                self._grammars.wait()
        except WeftError as error:
            self.failed_with = error
            outputs = Outputs((self._die(str(error)),))
        except BaseException as error:
            # A bug, or a signal: without this, results of this step would be taken for those of a later one.
            name = type(error).__name__
            self._die(f"{name}: {error}" if str(error) else f"{name} in the middle of a step")
            raise
        if whole := outputs.whole():
            self._forget(whole)
        return Outputs((reported, *outputs.parts)) if reported else outputs

    def finish(self) -> None:
        """Writes expert statistics that are still in memory; call once after the last step."""
        if self.balancing is not None and self.failure is None:
            self.balancing.finish(self.executor)

    def in_flight(self) -> frozenset[str]:
        """Ids of the requests in steps in flight; after a failure, of those in the steps that failed."""
        return frozenset().union(*(scheduler.in_flight() for scheduler in self._coordinator.schedulers))

    def stats(self) -> EngineStats:
        """Current counters and gauges."""
        groups = tuple(scheduler.stats() for scheduler in self._coordinator.schedulers)
        experts = None if self.balancing is None else self.balancing.stats()
        return EngineStats(
            steps=self._coordinator.steps,
            total=reduce(add, groups),
            groups=groups,
            step_tokens=self._steps.tokens.cumulative(),
            rows=self._steps.tokens.sum,
            experts=experts,
        )

    def _finish(self, request_id: str, index: int | None, finish: FinishReason, stop_reason: str | None) -> bool:
        outputs = self._live.get(request_id, {})
        indices = list(outputs) if index is None else [index] if index in outputs else []
        ended = [self._end(*outputs[each], finish, stop_reason=stop_reason) for each in indices]
        self._ended += ended
        self._forget(ended)
        return bool(ended)

    def _forget(self, outputs: Iterable[RequestOutput]) -> None:
        for output in outputs:
            if output.finish_reason is not None and (live := self._live.get(output.request_id)):
                live.pop(output.index, None)
                if not live:
                    del self._live[output.request_id]

    def _die(self, message: str) -> list[RequestOutput]:
        self.failure = message
        self._steps.clear()
        live = [each for outputs in self._live.values() for each in outputs.values()]
        return [self._end(*each, FinishReason.ERROR, error=message) for each in live]

    def _end(
        self,
        request: Request,
        scheduler: Scheduler,
        finish: FinishReason,
        *,
        stop_reason: str | None = None,
        error: str | None = None,
    ) -> RequestOutput:
        if not request.done:  # a step that failed half-way may have ended it without an output
            scheduler.remove(request)
        return output_of(request, finish=finish, stop_reason=stop_reason, error=error)
