"""What /metrics says of the engine and its ranks at the moment of a look, under vLLM's names. Knows no request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from weft.engine.buckets import Buckets
from weft.engine.outputs import STEP_TOKENS, EngineStats, GroupStats
from weft.launch.report import RankReport
from weft.server.engine_loop import EngineLoop
from weft.server.expert_metrics import expert_families

GAUGES: tuple[tuple[str, str, Callable[[GroupStats], float]], ...] = (
    ("num_requests_running", "Requests in a slot", lambda group: group.running),
    ("num_requests_waiting", "Requests in line", lambda group: group.waiting),
    ("kv_cache_usage_perc", "Share of the KV blocks that are in use; 1 is all", lambda group: _usage(group)),
    ("gpu_cache_usage_perc", "The same, by its older name", lambda group: _usage(group)),
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


class EngineView(Collector):
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
        yield from self._by_kind(groups)
        yield from self._steps()
        if self.stats is not None and self.stats.experts is not None:
            yield from expert_families(self._model, self.stats.experts)
        if self.loop is not None:
            yield from self._server(self.loop)
            yield from self._ranks(self.loop)

    def _by_kind(self, groups: Sequence[GroupStats]) -> Iterator[Metric]:
        names = ("model_name", "engine")
        sources = CounterMetricFamily(
            "vllm:prompt_tokens_by_source", "Tokens of admissions, by where they came from", labels=(*names, "source")
        )
        reasons = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason", "Requests in line, by what they wait for", labels=(*names, "reason")
        )
        for index, group in enumerate(groups):
            labels = (self._model, str(index))
            sources.add_metric((*labels, "local_compute"), group.queried_tokens - group.cached_tokens)
            sources.add_metric((*labels, "local_cache_hit"), group.cached_tokens)
            reasons.add_metric((*labels, "capacity"), group.waiting)
        yield sources
        yield reasons

    def _steps(self) -> Iterator[Metric]:
        steps = CounterMetricFamily("weft:steps", "Steps run", labels=("model_name",))
        steps.add_metric((self._model,), 0 if self.stats is None else self.stats.steps)
        yield steps
        counts = () if self.stats is None else self.stats.step_tokens
        if self.stats is not None and counts:
            labels = {"model_name": self._model, "engine": "0"}
            yield histogram(
                "vllm:iteration_tokens_total", "Rows of a step", STEP_TOKENS, counts, self.stats.rows, labels
            )

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


def histogram(
    name: str, text: str, bounds: Sequence[float], counts: Sequence[int], total: float, labels: dict[str, str]
) -> HistogramMetricFamily:
    """A family of one series, of `Buckets`' numbers."""
    family = HistogramMetricFamily(name, text, labels=tuple(labels))
    edges = [*(f"{float(bound)}" for bound in bounds), "+Inf"]
    family.add_metric(tuple(labels.values()), list(zip(edges, map(float, counts), strict=True)), total)
    return family


def buckets(name: str, text: str, values: Buckets, labels: dict[str, str]) -> HistogramMetricFamily:
    """The same, of one `Buckets`."""
    return histogram(name, text, values.bounds, values.cumulative(), values.sum, labels)


def _usage(group: GroupStats) -> float:
    return group.blocks_used / max(1, group.blocks_used + group.blocks_free)
