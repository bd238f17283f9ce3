from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest

from eventsync.logging import _MAX_KEYS, PERIOD, Alarms, Repeats, Throttle


def logged(code: str, level: str = "info") -> list[str]:
    """Return the lines that a process writes to stderr when it logs as `code` says."""
    start = f"import logging; from eventsync.logging import configure_logging; configure_logging({level!r}); {code}"
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_line_says_when_how_grave_where_and_what() -> None:
    [line] = logged("logging.getLogger('eventsync.sync').warning('the feed is interrupted: %s', 'why')")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING eventsync\.sync: the feed is interrupted: why", line
    )


def test_input_from_a_client_cannot_begin_a_line() -> None:
    [line] = logged(r"logging.getLogger('eventsync').info('bad id %s', 'x\r\n2026 CRITICAL forged')")
    assert line.endswith(r"bad id x\r\n2026 CRITICAL forged")


@pytest.mark.parametrize(("level", "lines"), [("debug", 2), ("info", 1), ("error", 0)])
def test_the_level_is_the_least_that_is_written(level: str, lines: int) -> None:
    code = "log = logging.getLogger('eventsync'); log.debug('a'); log.info('b'); logging.getLogger('pymongo').info('c')"
    assert len(logged(code, level)) == lines


def record(text: str, *words: object, level: int = logging.WARNING, name: str = "eventsync") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, words, None)


def test_a_repeated_warning_is_logged_once_in_a_period_with_its_count() -> None:
    now = 0.0
    repeats = Repeats(lambda: now)
    assert repeats.filter(record("it fails: %s", "why"))
    for _ in range(30):
        now += 1
        assert not repeats.filter(record("it fails: %s", "why"))
    assert repeats.filter(record("it fails: %s", "another reason"))
    assert repeats.filter(record("it fails: %s", "why", name="eventsync.other"))
    now += PERIOD
    told = record("it fails: %s", "why")
    assert repeats.filter(told)
    assert told.getMessage() == "it fails: why (30 times more in the last 90 s)"


def test_info_lines_and_alarms_always_pass() -> None:
    repeats = Repeats(lambda: 0.0)
    for again in (record("x leads", level=logging.INFO), record("ALARM: a change of orders", level=logging.ERROR)):
        assert repeats.filter(again)
        assert repeats.filter(again)


def test_an_alarm_is_logged_once_in_a_period_and_how_often_it_came(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    alarms = Alarms(logging.getLogger("eventsync.test"), lambda: now)
    with caplog.at_level(logging.DEBUG, "eventsync.test"):
        for what in ("one", "one", "two", "one"):
            alarms.log(what)
        now = PERIOD
        alarms.log("one")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "ALARM: one"),
        ("ERROR", "ALARM: two"),
        ("ERROR", "ALARM: one (2 times more in the last 60 s)"),
    ]


def test_the_remembered_keys_are_bounded() -> None:
    throttle = Throttle(lambda: 0.0)
    for number in range(3 * _MAX_KEYS):
        assert throttle.passes(number) == ""
    assert throttle.passes(3 * _MAX_KEYS - 1) is None
    assert len(throttle._seen) == _MAX_KEYS


def test_a_process_logs_so() -> None:
    lines = logged(
        "log = logging.getLogger('eventsync'); [log.warning('the same') for _ in range(5)]; log.warning('other')"
    )
    assert [line.rpartition(": ")[2] for line in lines] == ["the same", "other"]
