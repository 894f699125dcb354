"""Metric families out of tables: name, help and how the number is read of a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

T = TypeVar("T")
Kind = type[CounterMetricFamily] | type[GaugeMetricFamily]
Readings = Iterable[tuple[str, str, Callable[[T], float]]]
"""(name, help, the number of a record)."""


def families(
    kind: Kind, prefix: str, readings: Readings[T], names: Sequence[str], series: Sequence[tuple[Sequence[str], T]]
) -> Iterator[Metric]:
    """A family for each reading; `series`: values of the labels `names`, and the record that they stand for."""
    for name, text, value in readings:
        family = kind(prefix + name, text, labels=names)
        for labels, record in series:
            family.add_metric(labels, value(record))
        yield family
