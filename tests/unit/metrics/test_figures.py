from __future__ import annotations

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from eventsync.metrics.figures import Buckets, Figures, Metric
from eventsync.metrics.instruments import Histogram

COUNTER = Metric("test_steps_total", "counter", "Steps.", ("kind",))
GAUGE = Metric("test_open", "gauge", "Open ones.")
OLDEST = Metric("test_oldest", "gauge", "The oldest one.", merge="min")
NEWEST = Metric("test_newest", "gauge", "The newest one.", merge="max")
SECONDS = Metric("test_seconds", "histogram", "Time.", ("route",))
ALL = {metric.name: metric for metric in (COUNTER, GAUGE, OLDEST, NEWEST, SECONDS)}


def figures(count: int, gauge: float, *seconds: float) -> Figures:
    found, histogram = Figures(), Histogram((0.1, 1.0))
    for value in seconds:
        histogram.observe(value)
    found.put_all(COUNTER, {"a": count})
    for metric in (GAUGE, OLDEST, NEWEST):
        found.put(metric, gauge)
    found.put_histogram(SECONDS, histogram, "/x")
    return found


def samples(found: Figures) -> dict[str, float]:
    families = text_string_to_metric_families(found.text().decode())
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value for one in families for sample in one.samples
    }


def test_text_has_totals_and_cumulated_buckets() -> None:
    assert samples(figures(3, 2, 0.05, 0.1, 0.5, 7)) == {
        "test_steps_total a": 3,
        "test_open": 2,
        "test_oldest": 2,
        "test_newest": 2,
        "test_seconds_bucket 0.1 /x": 2,
        "test_seconds_bucket 1.0 /x": 3,
        "test_seconds_bucket +Inf /x": 4,
        "test_seconds_count /x": 4,
        "test_seconds_sum /x": pytest.approx(7.65),
    }


def test_a_metric_without_a_value_is_there_with_its_help() -> None:
    found = Figures()
    found.put_all(COUNTER, {})
    [family] = text_string_to_metric_families(found.text().decode())
    assert (family.name, family.documentation, family.samples) == ("test_steps", "Steps.", [])


def test_labels_and_help_may_have_any_text() -> None:
    found, odd = Figures(), 'a "quoted" \\ and\nthen {x="y"} ö'
    found.put(Metric("test_odd", "gauge", "Help \\ of\nlines.", ("a", "b")), float("inf"), odd, "")
    [family] = text_string_to_metric_families(found.text().decode())
    [sample] = family.samples
    assert (sample.labels, sample.value, family.documentation) == (
        {"a": odd, "b": ""},
        float("inf"),
        "Help \\ of\nlines.",
    )


def test_several_processes_are_added_by_what_each_metric_is() -> None:
    found = figures(3, 2, 0.05)
    found.add(figures(4, 5, 0.5, 2))
    assert found.value(COUNTER, "a") == 7
    assert [found.value(metric) for metric in (GAUGE, OLDEST, NEWEST)] == [7, 2, 5]
    assert found.value(SECONDS, "/x") == Buckets((0.1, 1.0), (1, 1, 1), 2.55)


def test_ended_process_keeps_its_counters_only() -> None:
    found = figures(3, 2, 0.05)
    found.add(figures(4, 5, 0.5), is_alive=False)
    assert found.value(COUNTER, "a") == 7
    assert found.value(GAUGE) == 2
    assert found.value(SECONDS, "/x") == Buckets((0.1, 1.0), (1, 1, 0), 0.55)


def test_encoding_keeps_everything() -> None:
    found = figures(3, 2.5, 0.05)
    assert samples(Figures.of_tree(orjson.loads(found.encoded()), ALL)) == samples(found)


def test_figures_of_another_version_are_taken_as_far_as_they_are_known() -> None:
    known = {"test_open": GAUGE, "test_steps_total": Metric(COUNTER.name, "counter", "Steps.", ("kind", "more"))}
    assert samples(Figures.of_tree(orjson.loads(figures(3, 2).encoded()), known)) == {"test_open": 2}
    own = figures(0, 0, 0.5)
    others = Figures()
    others.put_histogram(SECONDS, Histogram((5.0,)), "/x")
    own.add(others)
    assert own.value(SECONDS, "/x") == Buckets((0.1, 1.0), (0, 1, 0), 0.5)
