from __future__ import annotations

import re
import subprocess
import sys

import pytest


def logged(code: str, level: str = "info") -> list[str]:
    """What a process writes to stderr that logs as `code` says."""
    start = f"import logging; from app.logs import configure_logging; configure_logging({level!r}); {code}"
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_line_says_when_how_grave_where_and_what() -> None:
    [line] = logged("logging.getLogger('app.sync').warning('the feed is interrupted: %s', 'why')")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING app\.sync: the feed is interrupted: why", line)


def test_what_a_client_sent_can_not_begin_a_line_of_its_own() -> None:
    [line] = logged(r"logging.getLogger('app').info('bad id %s', 'x\r\n2026 CRITICAL forged')")
    assert line.endswith(r"bad id x\r\n2026 CRITICAL forged")


@pytest.mark.parametrize(("level", "lines"), [("debug", 2), ("info", 1), ("error", 0)])
def test_the_level_is_the_least_that_is_written(level: str, lines: int) -> None:
    code = "log = logging.getLogger('app'); log.debug('a'); log.info('b'); logging.getLogger('pymongo').info('c')"
    assert len(logged(code, level)) == lines
