"""Reports of benchmarks: tables, goals, the page about all kept results, and the figures in them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from scripts.bench.__main__ import BENCHMARKS, parser
from scripts.bench.fan_out import BARE, OURS, PLAIN, Key, growth, ratios
from scripts.bench.memory import slope
from scripts.bench.report import Goal, Rows, Table, alternating, index, page, percentiles

RESULTS = Path(__file__).parents[3] / "docs" / "benchmarks"
GOAL = Goal("a cost", "Ratios", "ours", "of theirs", 1.3)


def _table(*values: float) -> Table:
    rows = {f"ours {number}": {"of theirs": [value, value]} for number, value in enumerate(values)}
    return Table("Ratios", "About it.", rows | {"others": {"of theirs": [99.0]}})


def test_a_row_that_lacks_a_figure_has_an_empty_cell() -> None:
    rows = {"all": {"a": [1.0], "b": [1.0, 2.0, 4.0]}, "some": {"a": [40.0], "b": [math.nan]}, "none": {"b": [1e3]}}
    assert Table("T", "About it.", rows).markdown().splitlines()[4:] == [
        "| | a | b |",
        "|---|---|---|",
        "| all | 1.00 | 2.00 (1.00 to 4.00) |",
        "| some | 40.0 |  |",
        "| none |  | 1,000 |",
    ]


def test_a_goal_is_met_by_all_rows_by_some_or_by_none() -> None:
    assert GOAL.judged([_table(1.0, 1.3)]) == "| a cost | ≤ 1.3 | 1.00 to 1.30 | met |\n"
    assert "| 1.00 to 1.40 | met by 1 of 2 |" in GOAL.judged([_table(1.0, 1.4)])
    assert "| 1.40 | missed |" in GOAL.judged([_table(1.4)])
    assert "| not measured |" in GOAL.judged([])
    least = Goal("a rate", "Ratios", "ours", "of theirs", 1.3, at_least=True)
    assert "| ≥ 1.3 | 1.00 to 1.30 | met by 1 of 2 |" in least.judged([_table(1.0, 1.3)])


def test_the_index_lists_the_goals_of_every_page() -> None:
    text = page("One: about one.\n\nAlways so.\n", "scripts/bench/run one", {"x": "y"}, [_table(1.0)], [GOAL])
    assert text.startswith("# One\n\nMade by `scripts/bench/run one` on ")
    assert "\n\nAlways so.\n\n- x: y\n" in text
    listed = index({"one": text}, {"one": "About one."})
    assert "| a cost | ≤ 1.3 | 1.00 | met | [one](one.md) |" in listed
    assert "| About one. |" in listed


def test_the_kept_index_is_made_from_the_kept_pages() -> None:
    pages = {page.stem: page.read_text() for page in sorted(RESULTS.glob("*.md")) if page.stem != "README"}
    kept = (RESULTS / "README.md").read_text()
    assert index(pages, {}).partition("## Results")[0] == kept.partition("## Results")[0]
    assert "not measured" not in kept


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_quick_run_of_a_benchmark_changes_its_own_options(name: str) -> None:
    module = BENCHMARKS[name]
    options, usual = parser().parse_args([name, *module.QUICK.split()]), parser().parse_args([name])
    assert vars(options).keys() >= module.OPTIONS.keys()
    assert vars(options) != vars(usual)
    assert vars(usual).items() >= {option: default for option, (default, _) in module.OPTIONS.items()}.items()


def test_an_option_may_be_a_list() -> None:
    assert parser().parse_args(["fan_out", "--clients", "10,20"]).clients == (10, 20)
    assert parser().parse_args(["replay", "--cold", ""]).cold == ()


def test_every_other_round_is_in_reverse() -> None:
    assert list(alternating(3, "ab")) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_rows_keep_one_figure_a_round() -> None:
    rows = Rows()
    for value in (1.0, 2.0):
        assert rows.note("a row", {"x": value}) == {"x": value}
    assert rows == {"a row": {"x": [1.0, 2.0]}}


def test_a_slope_is_an_hours_growth_and_its_interval() -> None:
    flat, interval = slope({minute / 6: 100.0 + (minute % 2) for minute in range(600)})
    assert abs(flat) < 1
    assert interval >= 0
    rising, interval = slope({minute / 6: 2.0 * minute / 6 for minute in range(600)})
    assert abs(rising - 120.0) < 0.01
    assert interval < 0.01


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentiles(range(100, 0, -1)) == {"p50": 51, "p95": 96, "p99": 100}
    assert percentiles([7.0], "ack ") == {"ack p50": 7.0, "ack p95": 7.0, "ack p99": 7.0}
    with pytest.raises(ValueError, match="nothing"):
        percentiles([])


def test_ratios_and_growth_are_of_the_same_round() -> None:
    costs = {
        Key(OURS, 100, 300): [2.0, 4.0],
        Key(OURS, 200, 300): [3.0, 4.0],
        Key(BARE, 100, 300): [1.0, 4.0],
        Key(BARE, 200, 300): [1.5, 1.0],
        Key(PLAIN, 200, 300): [6.0, 8.0],
    }
    assert ratios(costs) == {
        "eventsync, 100 of 300 B": {"of bare write": [2.0, 1.0]},
        "eventsync, 200 of 300 B": {"of bare write": [2.0, 4.0], "of Starlette": [0.5, 0.5]},
    }
    assert growth(costs, 100, 200)["eventsync, 300 B"] == {"growth": [1.5, 1.0], "over bare write": [1.0, 4.0]}
    assert growth(costs, 100, 100) == {}
