"""Scrapes kept as series, and the part of PromQL that the alerts and the dashboard use, evaluated over them.

Prometheus' own grammar parses the expressions (`promql-parser`). The evaluation is exact but for one thing: `increase`
is not extrapolated to the ends of its range, so it is never more than Prometheus would say.
"""

from __future__ import annotations

import math
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, Final

import promql_parser as grammar
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
"""Values by labels, without the name of a metric."""

ARITHMETIC: Final[Mapping[str, Callable[[float, float], float]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda one, other: one / other if other else math.nan,
}
COMPARED: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
AGGREGATED: Final[Mapping[str, Callable[[list[float]], float]]] = {"sum": sum, "max": max, "min": min}


class Series:
    """The samples of several targets. Times are the test's own, in seconds."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, Labels], list[tuple[float, float]]] = defaultdict(list)
        self._scraped: dict[Labels, float] = {}
        """The time of the last scrape, by its target."""

    def scrape(self, at: float, job: str, instance: str, text: str | None) -> None:
        """Keep the answer of a target; None if there was none."""
        target = frozenset({("job", job), ("instance", instance)})
        self._scraped[target] = at
        self._samples["up", target].append((at, float(text is not None)))
        for family in text_string_to_metric_families(text or ""):
            for sample in family.samples:
                assert not {"job", "instance"} & sample.labels.keys(), f"{sample.name}: Prometheus renames these labels"
                labels = target | frozenset(sample.labels.items())
                self._samples[sample.name, labels].append((at, sample.value))

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return {name for name, _ in self._samples}

    def is_true(self, expression: str, at: float) -> bool:
        """Return True if an alert with this expression would be pending or firing."""
        return bool(self.value(expression, at))

    def value(self, expression: str, at: float) -> Vector:
        """Evaluate an expression that is a vector."""
        found = self._evaluate(grammar.parse(expression), at)
        assert isinstance(found, dict), expression
        return found

    def _evaluate(self, node: Any, at: float) -> Vector | float:
        if isinstance(node, grammar.NumberLiteral):
            return float(node.val)
        if isinstance(node, grammar.ParenExpr):
            return self._evaluate(node.expr, at)
        if isinstance(node, grammar.VectorSelector):
            return {
                labels: samples[-1][1] for labels, samples in self._selected(node) if self._is_fresh(labels, samples)
            }
        if isinstance(node, grammar.AggregateExpr):
            return self._aggregate(node, at)
        if isinstance(node, grammar.BinaryExpr):
            return _combined(str(node.op), self._evaluate(node.lhs, at), self._evaluate(node.rhs, at))
        if isinstance(node, grammar.Call):
            return self._call(node, at)
        raise NotImplementedError(type(node).__name__)

    def _selected(self, node: Any) -> Iterable[tuple[Labels, list[tuple[float, float]]]]:
        matchers = [(str(matcher.op), matcher.name, matcher.value) for matcher in node.matchers.matchers]
        for (name, labels), samples in self._samples.items():
            found = dict(labels)
            if name == node.name and all(_matches(op, found.get(label, ""), value) for op, label, value in matchers):
                yield labels, samples

    def _is_fresh(self, labels: Labels, samples: list[tuple[float, float]]) -> bool:
        target = frozenset(pair for pair in labels if pair[0] in {"job", "instance"})
        return samples[-1][0] == self._scraped[target]

    def _call(self, node: Any, at: float) -> Vector | float:
        name = node.func.name
        if name == "time":
            return at
        if name == "histogram_quantile":
            quantile, buckets = (self._evaluate(argument, at) for argument in node.args)
            assert isinstance(quantile, float)
            assert isinstance(buckets, dict)
            return _quantiles(quantile, buckets)
        assert name in {"rate", "increase"}, name
        ranged = node.args[0]
        seconds = ranged.range.total_seconds()
        found: Vector = {}
        for labels, samples in self._selected(ranged.vector_selector):
            inside = [sample for sample in samples if at - seconds < sample[0] <= at]
            if len(inside) > 1:
                grown = sum(_step(one[1], other[1]) for one, other in pairwise(inside))
                found[labels] = grown / (inside[-1][0] - inside[0][0]) if name == "rate" else grown
        return found

    def _aggregate(self, node: Any, at: float) -> Vector:
        values = self._evaluate(node.expr, at)
        assert isinstance(values, dict)
        kept = set(node.modifier.labels) if node.modifier is not None else set()
        groups: dict[Labels, list[float]] = defaultdict(list)
        for labels, value in values.items():
            groups[frozenset(pair for pair in labels if pair[0] in kept)].append(value)
        return {labels: AGGREGATED[str(node.op)](found) for labels, found in groups.items()}


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics that an expression selects. Raises `ValueError` if it can't be parsed."""
    found: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, grammar.VectorSelector):
            found.add(str(node.name))
        for attribute in ("expr", "lhs", "rhs", "vector_selector", "param"):
            if (child := getattr(node, attribute, None)) is not None:
                visit(child)
        for argument in getattr(node, "args", ()):
            visit(argument)

    visit(grammar.parse(expression))
    return found


def _matches(op: str, found: str, value: str) -> bool:
    if op in {"MatchOp.Equal", "MatchOp.NotEqual"}:
        return (found == value) is (op == "MatchOp.Equal")
    return (re.fullmatch(value, found) is not None) is (op == "MatchOp.Re")


def _step(one: float, other: float) -> float:
    """Return how much a counter has grown. One that is less than before has begun again at 0."""
    return other - one if other >= one else other


def _combined(op: str, left: Vector | float, right: Vector | float) -> Vector | float:
    if op == "or":
        assert isinstance(left, dict)
        assert isinstance(right, dict)
        return right | left
    if isinstance(left, float) and isinstance(right, float):
        return ARITHMETIC[op](left, right)
    pairs = _pairs(left, right)
    if op in ARITHMETIC:
        return {labels: ARITHMETIC[op](one, other) for labels, one, other in pairs}
    # A comparison keeps the left side of what is true.
    return {labels: one for labels, one, other in pairs if COMPARED[op](one, other)}


def _pairs(left: Vector | float, right: Vector | float) -> list[tuple[Labels, float, float]]:
    if isinstance(left, float):
        assert isinstance(right, dict)
        return [(labels, left, value) for labels, value in right.items()]
    if isinstance(right, float):
        return [(labels, value, right) for labels, value in left.items()]
    return [(labels, value, right[labels]) for labels, value in left.items() if labels in right]


def _quantiles(quantile: float, buckets: Vector) -> Vector:
    groups: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for labels, value in buckets.items():
        bound = float(dict(labels)["le"])
        groups[frozenset(pair for pair in labels if pair[0] != "le")].append((bound, value))
    return {labels: _quantile(quantile, sorted(found)) for labels, found in groups.items()}


def _quantile(quantile: float, buckets: list[tuple[float, float]]) -> float:
    """Return a quantile of cumulated buckets, as Prometheus does: linear within a bucket."""
    total = buckets[-1][1]
    if not total:
        return math.nan
    rank, below, before = quantile * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if math.isinf(bound):
                return below
            return below + (bound - below) * (rank - before) / (count - before)
        below, before = bound, count
    return below
