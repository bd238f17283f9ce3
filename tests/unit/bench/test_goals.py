from __future__ import annotations

import json
from pathlib import Path

from scripts.bench.goals import GOALS, Goal, index
from scripts.bench.plots import draw
from scripts.bench.report import Plot, Report, Table, plots_of
from scripts.bench.slope import slope

MOST = Goal("a cost", "one", "Ratios", "ours", "of theirs", 1.3)


def results(*values: float) -> dict[str, object]:
    rows = {f"ours {number}": {"of theirs": [value, value, value]} for number, value in enumerate(values)}
    return {"one": {"tables": {"Ratios": rows | {"others": {"of theirs": [99.0, 99.0, 99.0]}}}}}


def test_a_goal_is_met_by_all_rows_by_some_or_by_none() -> None:
    assert "| 1.00 to 1.30 | met (" in MOST.judged(results(1.0, 1.3))
    assert "| 1.00 to 1.40 | met by 1 of 2 (" in MOST.judged(results(1.0, 1.4))
    assert "| 1.40 | missed (" in MOST.judged(results(1.4))
    assert "| not measured |" in MOST.judged({})
    least = Goal("a rate", "one", "Ratios", "ours", "of theirs", 1.3, at_least=True)
    assert "| 1.00 to 1.30 | met by 1 of 2 (" in least.judged(results(1.0, 1.3))


def test_every_goal_is_about_rows_that_the_kept_results_have() -> None:
    page = index(Path("docs/benchmarks"), {})
    assert len(GOALS) >= 15
    assert "not measured" not in page


def test_plots_are_drawn_of_the_kept_figures(tmp_path: Path) -> None:
    plot = Plot("growth-x", "A curve", "clients", "µs", {"ours": {1: [1.0, 2.0], 10: [1.5]}}, log=True)
    report = Report("Growth", "run growth", {}, [Table("T", "About.", {"a": {"x": [1.0]}})], [plot])
    draw(report.plots, tmp_path)
    first = (tmp_path / "growth-x.svg").read_bytes()
    kept = json.loads(report.json())
    assert kept["plots"]["growth-x"]["ours"] == [[1, 1.5, 1.0, 2.0], [10, 1.5, 1.5, 1.5]]
    draw(plots_of(kept), tmp_path)
    assert (tmp_path / "growth-x.svg").read_bytes() == first


def test_a_kept_result_has_one_line_a_row() -> None:
    rows = {"a": {"x": [1.0], "y": [2.0]}, "b": {"x": [3.0]}}
    text = Report("R", "run r", {}, [Table("T", "About.", rows)]).json()
    assert [line for line in text.splitlines() if line.startswith(('"a"', '"b"'))] == [
        '"a": {"x": [1.0, 1.0, 1.0], "y": [2.0, 2.0, 2.0]},',
        '"b": {"x": [3.0, 3.0, 3.0]}}}',
    ]
    assert json.loads(text)["setup"]["commit"]


def test_a_slope_is_an_hours_growth_and_how_sure_that_is() -> None:
    flat = slope({minute / 6: 100.0 + (minute % 2) for minute in range(600)})
    assert abs(flat.an_hour) < 1
    assert flat.interval >= 0
    rising = slope({minute / 6: 2.0 * minute / 6 for minute in range(600)})
    assert abs(rising.an_hour - 120.0) < 0.01
    assert rising.interval < 0.01
