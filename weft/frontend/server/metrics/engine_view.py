"""What /metrics says of the engine and its ranks at the moment of a look, under vLLM's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from weft.engine.core.buckets import Buckets
from weft.engine.core.outputs import STEP_TOKENS, EngineStats, GroupStats
from weft.frontend.server.metrics.expert_metrics import expert_families
from weft.frontend.server.metrics.metric_families import families
from weft.frontend.serving.replicas import Replicas
from weft.runtime.ipc.report import RankReport

GAUGES: tuple[tuple[str, str, Callable[[GroupStats], float]], ...] = (
    ("num_requests_running", "Requests in a slot", lambda group: group.running),
    ("num_requests_waiting", "Requests in line", lambda group: group.waiting),
    ("kv_cache_usage_perc", "Share of the KV blocks that are in use; 1 is all", lambda group: _usage(group)),
    ("gpu_cache_usage_perc", "The older name of kv_cache_usage_perc", lambda group: _usage(group)),
)
COUNTERS: tuple[tuple[str, str, Callable[[GroupStats], float]], ...] = (
    ("prompt_tokens", "Prompt tokens taken in", lambda group: group.prompt_tokens),
    ("prompt_tokens_cached", "Prompt tokens found in the prefix cache", lambda group: group.cached_tokens),
    ("generation_tokens", "Tokens generated", lambda group: group.generated_tokens),
    ("num_preemptions", "Preemptions", lambda group: group.preemptions),
    ("prefix_cache_queries", "Tokens looked up in the prefix cache", lambda group: group.queried_tokens),
    ("prefix_cache_hits", "Tokens found in the prefix cache", lambda group: group.cached_tokens),
    ("gpu_prefix_cache_queries", "The older name of prefix_cache_queries", lambda group: group.queried_tokens),
    ("gpu_prefix_cache_hits", "The older name of prefix_cache_hits", lambda group: group.cached_tokens),
)

NAMES = ("model_name", "engine")

WORK: tuple[tuple[str, str, Callable[[RankReport], float]], ...] = (
    ("busy_seconds", "In steps, collectives included", lambda rank: rank.busy_s),
    ("rows", "Rows of its own", lambda rank: rank.rows),
    ("collective_seconds", "In collectives, waiting for peers included", lambda rank: rank.collective_s),
    ("collective_bytes", "Received in collectives", lambda rank: rank.collective_bytes),
    (
        "stage_wait_seconds",
        "Part of the time in collectives, in messages of other stages",
        lambda rank: rank.stage_wait_s,
    ),
)
STAGES: tuple[tuple[str, str, Callable[[Sequence[RankReport]], float]], ...] = (
    ("idle_share", "Share of the time in steps in which its ranks waited for other stages", lambda ranks: _idle(ranks)),
)

HELD: tuple[tuple[str, str, Callable[[RankReport], float]], ...] = (
    ("weight_bytes", "Weights that it holds, as they are kept", lambda rank: rank.weight_bytes),
    ("kv_cache_bytes", "KV cache; its pages come when they are first written", lambda rank: rank.kv_cache_bytes),
)


class EngineView(Collector):
    """The engines' counters at the moment of the last look; one `engine` label per dp group of a replica."""

    def __init__(self, engines: Replicas, model: str) -> None:
        self._engines, self._model = engines, model
        self.stats: Sequence[EngineStats | None] = ()
        """By replica."""

    def collect(self) -> Iterator[Metric]:
        """Metric families."""
        groups = list(self._groups())
        series = [((self._model, label), group) for label, group in groups]
        yield from families(GaugeMetricFamily, "vllm:", GAUGES, NAMES, series)
        yield from families(CounterMetricFamily, "vllm:", COUNTERS, NAMES, series)
        yield from self._by_kind(groups)
        yield from self._steps()
        experts = [(label, stats.experts) for label, stats in self._known() if stats.experts is not None]
        if experts:
            yield from expert_families(self._model, experts)
        yield from self._server()
        yield from self._ranks()

    def _known(self) -> Iterator[tuple[str, EngineStats]]:
        """(label, counters) of the replicas that have answered."""
        for replica, stats in enumerate(self.stats):
            if stats is not None:
                yield engine_label(self._engines, replica), stats

    def _groups(self) -> Iterator[tuple[str, GroupStats]]:
        for replica, stats in enumerate(self.stats):
            for place, group in enumerate(() if stats is None else stats.groups):
                yield engine_label(self._engines, replica, place), group

    def _by_kind(self, groups: Sequence[tuple[str, GroupStats]]) -> Iterator[Metric]:
        sources = CounterMetricFamily(
            "vllm:prompt_tokens_by_source", "Tokens of admissions, by where they came from", labels=(*NAMES, "source")
        )
        reasons = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason", "Requests in line, by what they wait for", labels=(*NAMES, "reason")
        )
        for label, group in groups:
            labels = (self._model, label)
            sources.add_metric((*labels, "local_compute"), group.queried_tokens - group.cached_tokens)
            sources.add_metric((*labels, "local_cache_hit"), group.cached_tokens)
            reasons.add_metric((*labels, "capacity"), group.waiting)
        yield sources
        yield reasons

    def _steps(self) -> Iterator[Metric]:
        steps = CounterMetricFamily("weft:steps", "Steps run", labels=NAMES)
        rows = HistogramMetricFamily("vllm:iteration_tokens_total", "Rows of a step", labels=NAMES)
        for label, stats in self._known():
            steps.add_metric((self._model, label), stats.steps)
            _add(rows, (self._model, label), STEP_TOKENS, stats.step_tokens, stats.rows)
        yield steps
        yield rows

    def _ranks(self) -> Iterator[Metric]:
        axes = ("replica", "dp", "tp")
        reports = self._engines.readiness().ranks
        series = [((str(each.rank), *(str(each.coordinates[axis]) for axis in axes)), each) for each in reports]
        yield from families(CounterMetricFamily, "weft:rank_", WORK, ("rank", *axes), series)
        yield from families(GaugeMetricFamily, "weft:rank_", HELD, ("rank", *axes), series)
        stages: dict[tuple[str, str], list[RankReport]] = {}
        for each in reports:
            at = str(each.coordinates["replica"]), str(each.coordinates["stage"])
            stages.setdefault(at, []).append(each)
        yield from families(GaugeMetricFamily, "weft:stage_", STAGES, ("replica", "stage"), list(stages.items()))

    def _server(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("weft:ready", "1 while requests are taken", value=float(self._engines.ready))
        ready = GaugeMetricFamily("weft:replica_ready", "1 while the replica takes requests", labels=("replica",))
        deaths = CounterMetricFamily("weft:restarts", "Sets of ranks that have died", labels=("replica",))
        config = GaugeMetricFamily(
            "vllm:cache_config_info",
            "Sizes of the KV cache",
            labels=(*NAMES, "block_size", "num_gpu_blocks", "enable_prefix_caching"),
        )
        for loop in self._engines.loops:
            ready.add_metric((str(loop.index),), float(loop.serving))
            deaths.add_metric((str(loop.index),), loop.restarts)
            if loop.engine is not None:
                limits = loop.engine.limits
                words = (str(limits.block_size), str(limits.num_blocks), str(limits.enable_prefix_caching))
                config.add_metric((self._model, engine_label(self._engines, loop.index), *words), 1)
        yield ready
        yield deaths
        yield config


def engine_label(engines: Replicas, replica: int, group: int = 0) -> str:
    """vLLM's `engine`: it counts dp groups through all replicas. What is known of a whole replica has its first's."""
    return str(replica * engines.groups + group)


def histogram(
    name: str, text: str, names: Sequence[str], series: Sequence[tuple[Sequence[str], Buckets]]
) -> HistogramMetricFamily:
    """A family; `series`: values of the labels `names`, and what is counted under them, with the same bounds."""
    family = HistogramMetricFamily(name, text, labels=tuple(names))
    for labels, values in series:
        _add(family, labels, values.bounds, values.cumulative(), values.sum)
    return family


def _add(
    family: HistogramMetricFamily, labels: Sequence[str], bounds: Sequence[float], counts: Sequence[int], total: float
) -> None:
    edges = [*(f"{float(bound)}" for bound in bounds), "+Inf"]
    family.add_metric(tuple(labels), list(zip(edges, map(float, counts), strict=True)), total)


def _idle(ranks: Sequence[RankReport]) -> float:
    busy = sum(rank.busy_s for rank in ranks)
    return sum(rank.stage_wait_s for rank in ranks) / busy if busy else 0.0


def _usage(group: GroupStats) -> float:
    return group.blocks_used / max(1, group.blocks_used + group.blocks_free)
