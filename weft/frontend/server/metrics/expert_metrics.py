"""What /metrics says about the balance of expert slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from weft.frontend.server.metrics.metric_families import families
from weft.parallel.experts.statistics.counters import ExpertStats

COUNTERS: tuple[tuple[str, str, Callable[[ExpertStats], float]], ...] = (
    ("expert_rebalances", "Plans of new placements begun", lambda stats: stats.decisions),
    ("expert_rebalances_failed", "Plans that failed", lambda stats: stats.failures),
    ("expert_layers_switched", "Layers that switched to a new placement", lambda stats: stats.layers_switched),
    ("expert_slots_moved", "Slots that took another expert's weights", lambda stats: stats.slots_moved),
    ("expert_bytes_moved", "Weights received by slots, over one copy of the experts", lambda stats: stats.bytes_moved),
)
GAUGES: tuple[tuple[str, str, Callable[[ExpertStats], float]], ...] = (
    ("expert_window_size", "Steps whose loads count", lambda stats: stats.window),
    ("expert_window_steps", "Steps of the window that have run", lambda stats: stats.window_steps),
    ("expert_layers_moving", "Layers whose weights move to a new placement", lambda stats: stats.layers_moving),
)
PLACEMENTS: tuple[tuple[str, Callable[[ExpertStats], Sequence[float | None]]], ...] = (
    ("before", lambda stats: stats.before),
    ("now", lambda stats: stats.now),
)
BALANCE = "Mean / maximum of the ranks' loads in the last full window: as it was placed, and as it would be now"


def expert_families(model: str, found: Sequence[tuple[str, ExpertStats]]) -> Iterator[Metric]:
    """Metric families; `found`: each replica's `engine` label and its counters."""
    names = ("model_name", "engine")
    series = [((model, engine), stats) for engine, stats in found]
    yield from families(CounterMetricFamily, "weft:", COUNTERS, names, series)
    yield from families(GaugeMetricFamily, "weft:", GAUGES, names, series)
    mean = GaugeMetricFamily("weft:expert_balance", f"{BALANCE}; mean", labels=(*names, "placement"))
    layers = GaugeMetricFamily("weft:expert_layer_balance", BALANCE, labels=(*names, "placement", "layer"))
    for engine, stats in found:
        _add_balance(mean, layers, (model, engine), stats)
    yield mean
    yield layers


def _add_balance(
    mean: GaugeMetricFamily, layers: GaugeMetricFamily, labels: tuple[str, str], stats: ExpertStats
) -> None:
    for placement, of in PLACEMENTS:
        known = [(layer, found) for layer, found in zip(stats.layers, of(stats), strict=False) if found is not None]
        if known:
            mean.add_metric((*labels, placement), sum(found for _, found in known) / len(known))
        for layer, found in known:
            layers.add_metric((*labels, placement, str(layer)), found)
