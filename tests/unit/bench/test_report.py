from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from scripts.bench.report import Report, Table, retabled

RESULTS = Path(__file__).parents[3] / "docs" / "benchmarks"


def test_a_row_that_lacks_a_figure_has_an_empty_cell() -> None:
    table = Table("T", "About it.", {"all": {"a": [1.0], "b": [2.0], "c": [3.0]}, "some": {"a": [4.0], "c": [5.0]}})
    assert table.markdown().splitlines()[-2:] == ["| all | 1.00 | 2.00 | 3.00 |", "| some | 4.00 |  | 5.00 |"]


def test_a_column_that_only_later_rows_have_stands_where_they_have_it() -> None:
    table = Table("T", "About it.", {"some": {"a": [4.0], "c": [5.0]}, "all": {"a": [1.0], "b": [2.0], "c": [3.0]}})
    assert table.markdown().splitlines()[-4:] == [
        "| | a | b | c |",
        "|---|---|---|---|",
        "| some | 4.00 |  | 5.00 |",
        "| all | 1.00 | 2.00 | 3.00 |",
    ]


def test_a_page_is_written_anew_from_what_is_kept() -> None:
    rows = {"one": {"a": [1.0, 2.0], "b": [2.0]}, "two": {"a": [math.nan], "b": [3.0]}}
    report = Report("R", "run", {"x": "y"}, [Table("First", "About it.", rows), Table("Second", "More.", rows)])
    page = report.markdown()
    assert retabled(page.replace("| 3.00 |", "| 4.00 |"), json.loads(report.json())) == page


@pytest.mark.parametrize("kept", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_each_page_shows_the_figures_that_are_kept_with_it(kept: Path) -> None:
    page = kept.with_suffix(".md").read_text()
    assert retabled(page, json.loads(kept.read_text())) == page
