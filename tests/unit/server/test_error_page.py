"""`docs/reference/errors.md` against the table of the code."""

from __future__ import annotations

import re
from pathlib import Path

from eventsync.errors import EventsyncError
from eventsync.server.problems import TABLE, Close, Problem, problem_of

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "errors.md").read_text()


def row_of(code: str, problem: Problem) -> tuple[str, str, str, str]:
    return str(problem.status.value), code, problem.title, str(problem.close.value)


def test_the_page_lists_each_error_with_its_status_title_and_close_code() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| ([^|]+) \| (\d+) \| [^|]+ \|$", PAGE, re.MULTILINE)
    expected = [row_of(kind.code, problem) for kind, problem in TABLE.items()]
    assert sorted(rows) == sorted([*expected, row_of("internal", problem_of(EventsyncError()))])


def test_the_page_names_each_close_code() -> None:
    assert not [code for code in Close if not re.search(rf"\b{code.value}\b", PAGE)]
