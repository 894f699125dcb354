"""/metrics in Prometheus's words and under vLLM's names, so that dashboards made for it show this server too.

Counters and gauges come from the engine when somebody asks; latencies are observed where outputs reach their request.
Knows no HTTP; belongs to the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from weft.engine.outputs import EngineStats, GroupStats
from weft.launch.report import RankReport
from weft.server.engine_loop import EngineLoop
from weft.server.expert_metrics import expert_families
from weft.step.sampling_params import SamplingParams

CONTENT_TYPE = CONTENT_TYPE_LATEST

FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
BETWEEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
WHOLE_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
OUTPUTS = (1, 2, 5, 10, 20)

GAUGES: tuple[tuple[str, str, Callable[[GroupStats], float]], ...] = (
    ("num_requests_running", "Requests in a slot", lambda group: group.running),
    ("num_requests_waiting", "Requests in line", lambda group: group.waiting),
    (
        "kv_cache_usage_perc",
        "Share of the KV blocks that are in use; 1 is all",
        lambda group: group.blocks_used / max(1, group.blocks_used + group.blocks_free),
    ),
)
COUNTERS: tuple[tuple[str, str, Callable[[GroupStats], float]], ...] = (
    ("prompt_tokens", "Prompt tokens taken in", lambda group: group.prompt_tokens),
    ("prompt_tokens_cached", "Prompt tokens found in the prefix cache", lambda group: group.cached_tokens),
    ("generation_tokens", "Tokens generated", lambda group: group.generated_tokens),
    ("num_preemptions", "Preemptions", lambda group: group.preemptions),
    ("prefix_cache_queries", "Tokens looked up in the prefix cache", lambda group: group.queried_tokens),
    ("prefix_cache_hits", "Tokens found in the prefix cache", lambda group: group.cached_tokens),
)

WORK: tuple[tuple[str, str, Callable[[RankReport], float]], ...] = (
    ("busy_seconds", "In steps, collectives included", lambda rank: rank.busy_s),
    ("rows", "Rows of its own", lambda rank: rank.rows),
    ("collective_seconds", "In collectives, waiting for peers included", lambda rank: rank.collective_s),
    ("collective_bytes", "Received in collectives", lambda rank: rank.collective_bytes),
)


class _EngineView(Collector):
    """The engine's counters at the moment of the last look; one `engine` label per dp group."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.stats: EngineStats | None = None
        self.loop: EngineLoop | None = None

    def collect(self) -> Iterator[Metric]:
        """Metric families."""
        groups = () if self.stats is None else self.stats.groups
        for name, text, value in GAUGES:
            yield self._filled(GaugeMetricFamily(f"vllm:{name}", text, labels=("model_name", "engine")), value, groups)
        for name, text, value in COUNTERS:
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=("model_name", "engine"))
            yield self._filled(counter, value, groups)
        steps = CounterMetricFamily("weft:steps", "Steps run", labels=("model_name",))
        steps.add_metric((self._model,), 0 if self.stats is None else self.stats.steps)
        yield steps
        if self.stats is not None and self.stats.experts is not None:
            yield from expert_families(self._model, self.stats.experts)
        if self.loop is not None:
            yield from self._server(self.loop)
            yield from self._ranks(self.loop)

    def _filled(
        self,
        family: GaugeMetricFamily | CounterMetricFamily,
        value: Callable[[GroupStats], float],
        groups: Sequence[GroupStats],
    ) -> Metric:
        for index, group in enumerate(groups):
            family.add_metric((self._model, str(index)), value(group))
        return family

    def _ranks(self, loop: EngineLoop) -> Iterator[Metric]:
        reports = loop.readiness().ranks
        for name, text, value in WORK:
            family = CounterMetricFamily(f"weft:rank_{name}", text, labels=("rank", "dp", "tp"))
            for report in reports:
                at = report.coordinates
                family.add_metric((str(report.rank), str(at["dp"]), str(at["tp"])), value(report))
            yield family

    def _server(self, loop: EngineLoop) -> Iterator[Metric]:
        yield GaugeMetricFamily("weft:ready", "1 while requests are taken", value=float(loop.ready))
        yield CounterMetricFamily("weft:restarts", "Sets of ranks that have died", value=loop.restarts)
        engine = loop.engine
        if engine is not None:
            limits = engine.limits
            config = GaugeMetricFamily(
                "vllm:cache_config_info",
                "Sizes of the KV cache",
                labels=("model_name", "engine", "block_size", "num_gpu_blocks", "enable_prefix_caching"),
            )
            words = (str(limits.block_size), str(limits.num_blocks), str(limits.enable_prefix_caching))
            config.add_metric((self._model, "0", *words), 1)
            yield config


class Metrics:
    """A registry of its own: two servers can live in one process."""

    def __init__(self, loop: EngineLoop, model: str) -> None:
        self._loop = loop
        self._registry = CollectorRegistry(auto_describe=False)
        self._view = _EngineView(model)
        self._view.loop = loop
        self._registry.register(self._view)
        self._labels = (model, "0")
        self.first = self._histogram("time_to_first_token_seconds", "From the request to its first token", FIRST_S)
        self.between = self._histogram("inter_token_latency_seconds", "From token to token", BETWEEN_S)
        self.whole = self._histogram("e2e_request_latency_seconds", "From the request to its end", WHOLE_S)
        self.decode = self._histogram("request_decode_time_seconds", "From the first token to the last", WHOLE_S)
        per_token = "request_time_per_output_token_seconds"
        self.per_token = self._histogram(per_token, "Mean time between a request's tokens", BETWEEN_S)
        self.prompt = self._histogram("request_prompt_tokens", "Tokens of a prompt", TOKENS)
        self.generated = self._histogram("request_generation_tokens", "Tokens of an answer", TOKENS)
        self.n = self._histogram("request_params_n", "Answers asked for", OUTPUTS)
        self.max_tokens = self._histogram("request_params_max_tokens", "max_tokens asked for", TOKENS)
        names = ("model_name", "engine", "finished_reason")
        self._success = Counter("vllm:request_success", "Answers that ended", names, registry=self._registry)
        self._refused = Counter("weft:requests_failed", "Requests that failed", ("status",), registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        family = Histogram(
            f"vllm:{name}", text, ("model_name", "engine"), buckets=tuple(buckets), registry=self._registry
        )
        return family.labels(*self._labels)

    def begin(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> Watch:
        """A request has been taken in."""
        for prompt in prompts:
            self.prompt.observe(len(prompt))
        self.n.observe(params.n)
        if params.max_tokens is not None:
            self.max_tokens.observe(params.max_tokens)
        return Watch(self)

    def ended(self, reason: str) -> None:
        """An answer is whole."""
        self._success.labels(*self._labels, reason).inc()

    def failed(self, status: int) -> None:
        """A request that had been taken in came to nothing."""
        self._refused.labels(str(status)).inc()

    async def exposition(self) -> bytes:
        """The whole page."""
        self._view.stats = await self._loop.stats()
        return generate_latest(self._registry)


class Watch:
    """Times of one request's outputs."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._began = time.monotonic()
        self._firsts: dict[int, float] = {}
        self._lasts: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    def tokens(self, output: int, count: int) -> None:
        """`count` tokens of an output have come."""
        if not count:
            return
        now = time.monotonic()
        if output in self._lasts:
            self._metrics.between.observe((now - self._lasts[output]) / count)
        else:
            self._firsts[output] = now
            self._metrics.first.observe(now - self._began)
        self._lasts[output] = now
        self._counts[output] = self._counts.get(output, 0) + count

    def ended(self, output: int, reason: str) -> None:
        """An output is whole."""
        now, metrics = time.monotonic(), self._metrics
        metrics.whole.observe(now - self._began)
        metrics.ended(reason)
        count = self._counts.get(output, 0)
        metrics.generated.observe(count)
        if count:
            metrics.decode.observe(self._lasts[output] - self._firsts[output])
        if count > 1:
            metrics.per_token.observe((self._lasts[output] - self._firsts[output]) / (count - 1))

    def failed(self, status: int) -> None:
        """The request came to nothing."""
        self._metrics.failed(status)

    def again(self) -> None:
        """What came is void."""
        self._firsts, self._lasts, self._counts = {}, {}, {}
