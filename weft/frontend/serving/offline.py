"""OfflineEngines: the engines of all replicas, stepped by the thread that reads their outputs.

One engine steps in the caller's thread. Several step side by side, each in a thread while its step runs; between two of
its steps an engine is the caller's alone. Where `server_cpus` is given these threads keep to it, the caller's until the
engines are closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial

from weft.base.errors import PeerError, WeftError
from weft.base.log import get_logger
from weft.base.machine.cores import KeptTo
from weft.base.machine.deferred_signals import DeferredSignals
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.engine.core.outputs import Outputs, RequestOutput
from weft.frontend.serving.engines import balancing_of, make_engine
from weft.frontend.serving.placement import RequestPlacement
from weft.runtime.ipc.fingerprint import Settings
from weft.runtime.ipc.report import RankReport
from weft.runtime.launch_plan.plan import LaunchPlan
from weft.runtime.supervisor.executor import ProcessExecutor
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.processes import Spawner
from weft.runtime.supervisor.start import Listener, Starting

_log = get_logger(__name__)


class OfflineEngines:
    """Started by `plan`, all replicas at once. PeerError, ConfigError: one of them cannot be; then none is left."""

    def __init__(
        self,
        plan: LaunchPlan,
        listener: Listener | None = None,
        spawner: Spawner | None = None,
        hosts: AgentPool | None = None,
    ) -> None:
        count, self._hosts = plan.layout.replicas, hosts
        parts = [plan.of_replica(replica) for replica in range(count)]
        balancing = [balancing_of(part) for part in parts]
        self._moved = contextlib.ExitStack()
        if plan.engine.server_cpus is not None:
            self._moved.enter_context(KeptTo(plan.server_cpus))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="replica")
        self._starting: list[Starting] = []
        self._executors, started = self._start(parts, listener, spawner or Spawner())
        pairs = zip(self._executors, started, balancing, strict=True)
        self._engines = [make_engine(executor, part, moves) for executor, part, moves in pairs]
        longest = min(part.engine.max_model_len or 0 for part in started)
        memory = started[0].memory if count == 1 else plan.memory
        self.plan = replace(plan, engine=replace(plan.engine, max_model_len=longest), memory=memory)
        """What was started; every limit is decided."""
        self._placement = RequestPlacement(count)
        for replica, engine in enumerate(self._engines):
            self._placement.open(replica, engine.limits, plan.layout.attention.dp)
        self._homes: dict[str, int] = {}
        self.unbroken = DeferredSignals()
        """To be entered while requests are added and outputs read: Ctrl-C then waits until the current step has
        ended and the engine can go on."""
        self._stepping: dict[int, Future[Outputs]] = {}

    def _start(
        self, parts: Sequence[LaunchPlan], listener: Listener | None, spawner: Spawner
    ) -> tuple[list[ProcessExecutor], list[LaunchPlan]]:
        """Processes come from this thread, which outlives them; each replica is waited for in one of its own."""
        starting = self._starting
        agreed = Settings()
        try:
            for part in parts:
                starting.append(Starting(part, listener, spawner, agreed=agreed, hosts=self._hosts))
            waits = [self._pool.submit(one.wait) for one in starting]
            wait(waits, return_when="FIRST_EXCEPTION")
            failed = next((one for one in waits if one.done() and one.exception() is not None), None)
            if failed is not None:
                failed.result()
            return [one.result() for one in waits], [one.plan for one in starting]
        except BaseException:
            for one in starting:
                one.cancel()
            self._pool.shutdown()
            for one in starting:
                one.close()
            if self._hosts is not None:
                self._hosts.close()
            self._moved.close()
            raise

    def reports(self) -> list[RankReport]:
        """Where every rank is, and what it has done."""
        return [report for one in self._starting for report in one.reports()]

    def add_request(self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Gives the request to a replica. RequestError: it cannot run. PeerError: the replica is dead."""
        among, limits = range(len(self._engines)), self._engines[0].limits
        home = self._placement.place({request_id: prompt_ids}, params, limits, among)
        self._settle(home)
        self._homes[request_id] = home
        engine = self._engines[home]
        self.unbroken.run(lambda: engine.add_request(request_id, prompt_ids, params))

    def abort(self, request_id: str) -> None:
        """Ends a request, unless it has ended; records of it may still come."""
        home = self._homes.pop(request_id, None)
        self._placement.end(request_id)
        if home is not None:
            self._settle(home)
            self.unbroken.run(lambda: self._engines[home].abort(request_id))

    def stop_request(self, request_id: str, reason: str, *, index: int) -> None:
        """Ends an output whose last record has just been read."""
        engine = self._engines[self._homes[request_id]]
        self.unbroken.run(lambda: engine.stop_request(request_id, reason, index=index))

    def outputs(self) -> Iterator[Iterable[RequestOutput]]:
        """What each step of an engine brings, until there is nothing left to do. PeerError: a rank died."""
        if len(self._engines) == 1:
            (engine,) = self._engines
            while engine.has_work:
                yield self._alive(engine, self.unbroken.run(engine.step))
            return
        while True:
            for replica, engine in enumerate(self._engines):
                if engine.has_work and replica not in self._stepping:
                    self.unbroken.run(partial(self._begin_step, replica, engine))
            if not self._stepping:
                return
            done, _ = wait(self._stepping.values(), return_when=FIRST_COMPLETED)
            for replica in [each for each, step in self._stepping.items() if step in done]:
                found = self._alive(self._engines[replica], self._stepping.pop(replica).result())
                yield self._placement.computed(found)

    def _begin_step(self, replica: int, engine: Engine) -> None:
        self._stepping[replica] = self._pool.submit(engine.step)

    @property
    def failure(self) -> str | None:
        """What ended one of the engines, if it was not asked to end."""
        return next((engine.failure for engine in self._engines if engine.failure is not None), None)

    def _alive(self, engine: Engine, outputs: Outputs) -> Outputs:
        if engine.failure is not None:
            raise PeerError(engine.failure)
        return outputs

    def _settle(self, replica: int) -> None:
        """Waits for a step whose outputs are dropped."""
        if (step := self._stepping.pop(replica, None)) is not None:
            wait([step])

    def close(self) -> None:
        """What has been counted is written, then the ranks end; safe to call twice."""
        for replica, (engine, executor) in enumerate(zip(self._engines, self._executors, strict=True)):
            self._settle(replica)
            try:
                engine.finish()
            except WeftError as error:
                _log.error("%s", error)
            finally:
                executor.close()
        self._pool.shutdown()
        if self._hosts is not None:
            self._hosts.close()
        self._moved.close()
