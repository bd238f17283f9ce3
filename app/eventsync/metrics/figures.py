"""Figures: the metrics of one process, or of several together, at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Literal

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from eventsync.metrics.instruments import Histogram

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""The media type of `Figures.text`."""

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max", "min"]
Labels = tuple[str, ...]
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


@dataclass(frozen=True, slots=True)
class Metric:
    """The declaration of a metric. `name` is the full one, with the `_total` of a counter.

    `merge` says what a gauge of several server processes is: counters and histograms are always added.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels = ()
    merge: Merge = "sum"


@dataclass(frozen=True, slots=True)
class Buckets:
    """The value of a histogram: see `Histogram`."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    def plus(self, other: Buckets) -> Buckets:
        """Return the histogram of both; this one if their bounds differ, as after an upgrade."""
        if self.bounds != other.bounds:
            return self
        counts = tuple(one + more for one, more in zip(self.counts, other.counts, strict=True))
        return Buckets(self.bounds, counts, self.sum + other.sum)


Value = float | Buckets


class Figures:
    """Values by metric and label values."""

    def __init__(self) -> None:
        self._values: dict[Metric, dict[Labels, Value]] = {}

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        """Set the value of a counter or gauge for these label values."""
        self._values.setdefault(metric, {})[labels] = float(value)

    def put_all(self, metric: Metric, values: Mapping[Any, float]) -> None:
        """Set the values of a metric by label values: a text for a single label, a tuple for several."""
        # With no value yet, the metric is there all the same: a scrape shows its name and its help.
        family = self._values.setdefault(metric, {})
        for labels, value in values.items():
            family[labels if isinstance(labels, tuple) else (labels,)] = float(value)

    def put_histogram(self, metric: Metric, histogram: Histogram, *labels: str) -> None:
        """Set a histogram to what was observed until now."""
        buckets = Buckets(histogram.bounds, tuple(histogram.counts), histogram.sum)
        self._values.setdefault(metric, {})[labels] = buckets

    def add(self, other: Figures, *, is_alive: bool = True) -> None:
        """Add the figures of another process. Of one that has ended, only counters and histograms remain."""
        for metric, values in other._values.items():
            if not is_alive and metric.kind == "gauge":
                continue
            own = self._values.setdefault(metric, {})
            for labels, value in values.items():
                own[labels] = value if labels not in own else _merged(metric, own[labels], value)

    def value(self, metric: Metric, *labels: str) -> Value | None:
        """Return a value, or None."""
        return self._values.get(metric, {}).get(labels)

    def encoded(self) -> bytes:
        """Return the figures for another process."""
        families = {metric.name: [_plain(labels, value) for labels, value in values.items()]
                    for metric, values in self._values.items()}  # fmt: skip
        return orjson.dumps(families)

    @classmethod
    def of_tree(cls, tree: Mapping[str, Any], metrics: Mapping[str, Metric]) -> Figures:
        """Return the figures that another process has encoded. What this version does not know is left out."""
        figures = cls()
        for name, rows in tree.items():
            metric = metrics.get(name)
            if metric is None:
                continue
            family = figures._values.setdefault(metric, {})
            for labels, value in rows:
                if len(labels) != len(metric.labels) or isinstance(value, list) is (metric.kind != "histogram"):
                    continue
                family[tuple(labels)] = _decoded(value)
        return figures

    def text(self) -> bytes:
        """Return Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(self._values))
        return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, values: Mapping[Metric, Mapping[Labels, Value]]) -> None:
        self._values = values

    def collect(self) -> Iterator[Family]:
        for metric, values in self._values.items():
            yield _family(metric, values)


def _family(metric: Metric, values: Mapping[Labels, Value]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in values.items():
            if isinstance(value, Buckets):
                bounds = [*(str(bound) for bound in value.bounds), "+Inf"]
                sums = list(zip(bounds, accumulate(map(float, value.counts)), strict=True))
                histogram.add_metric(list(labels), sums, value.sum)
        return histogram
    made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = made(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
    for labels, value in values.items():
        if not isinstance(value, Buckets):
            family.add_metric(list(labels), value)
    return family


def _merged(metric: Metric, one: Value, other: Value) -> Value:
    if isinstance(one, Buckets) or isinstance(other, Buckets):
        return one.plus(other) if isinstance(one, Buckets) and isinstance(other, Buckets) else one
    if metric.kind == "counter" or metric.merge == "sum":
        return one + other
    return max(one, other) if metric.merge == "max" else min(one, other)


def _plain(labels: Labels, value: Value) -> tuple[Labels, Any]:
    return labels, [value.bounds, value.counts, value.sum] if isinstance(value, Buckets) else value


def _decoded(value: Any) -> Value:
    if isinstance(value, list):
        bounds, counts, total = value
        return Buckets(tuple(bounds), tuple(counts), total)
    return float(value)
