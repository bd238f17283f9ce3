"""The files for Prometheus and Grafana: their expressions are PromQL, over metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventsync.metrics.catalogue import ALL
from eventsync_workers.monitoring import catalogue
from support.promql import metrics_of

DEPLOY = Path(__file__).parents[3] / "deploy"
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "eventsync.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def _expressions() -> Iterator[Any]:
    for rule in ALERTS:
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in PANELS:
        for target in panel["targets"]:
            # Grafana replaces its variable by a duration.
            expression = target["expr"].replace("$__rate_interval", "1m")
            yield pytest.param(expression, id=f"{panel['title']} {target['refId']}")


EXPRESSIONS = list(_expressions())


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_parses_and_its_metrics_exist(expression: str) -> None:
    assert catalogue.LEADER.name in ALL
    for name in metrics_of(expression) - {"up"}:
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        metric = ALL.get(name) or ALL.get(family)
        assert metric is not None, f"no metric {name}"
        assert (metric.kind == "histogram") is (family != name), f"{name} is a {metric.kind}"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_counters_are_not_used_without_a_rate(expression: str) -> None:
    for name in re.findall(r"\w+_(?:total|bucket)\b", expression):
        assert re.search(rf"(?:rate|increase)\({name}", expression), f"{name} alone only grows"


def test_each_alert_says_what_it_is_and_how_grave() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"warning", "critical"}, rule["alert"]
        assert {"summary", "description"} == rule["annotations"].keys(), rule["alert"]


def test_each_alert_is_seen_true_by_a_test_that_breaks_something() -> None:
    text = (DEPLOY.parent / "tests" / "e2e" / "test_alerts.py").read_text()
    fired = {
        name for call in re.findall(r"\.(?:fires|value)\(([^()]*)\)", text) for name in re.findall(r'"(\w+)"', call)
    }
    fired |= set(re.findall(r'RULES\["(\w+)"\], an_hour_later', text))
    assert {rule["alert"] for rule in ALERTS} <= fired
    # And for as long as it has to be.
    kept = {name for call in re.findall(r'\.keeps_firing\(([\s",\w]*)', text) for name in re.findall(r'"(\w+)"', call)}
    kept |= set(re.findall(r'MINUTES\["(\w+)"\]', text))
    assert {rule["alert"] for rule in ALERTS if "for" in rule} <= kept


def test_panels_do_not_overlap_and_have_names_of_their_own() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & cells, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        places |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_metrics_follow_the_conventions_of_prometheus() -> None:
    for name, metric in ALL.items():
        assert re.fullmatch(r"(?:eventsync|process)_[a-z_]+", name), name
        assert (metric.kind == "counter") is name.endswith("_total"), name
        assert not re.search(r"_(?:ms|millis|milliseconds|minutes|kb|mib|kilobytes)(?:_|$)", name), name
        assert metric.kind != "histogram" or name.endswith("_seconds"), name
        assert metric.help.endswith("."), name
        # Labels that Prometheus gives to each target, or whose values have no bound.
        assert not set(metric.labels) & {"job", "instance", "le", "id", "client", "document", "path", "subject"}, name
