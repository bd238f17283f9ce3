from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from eventsync.logging import (
    _MAX_KEYS,
    ACCESS_LOG,
    ACTION,
    BURST,
    CONTEXT,
    PERIOD,
    Alarms,
    JsonFormatter,
    LineFormatter,
    LogContext,
    Repeats,
    Throttle,
    trace_of,
)
from support.waiting import patience


def logged(code: str, level: str = "info", log_format: str = "text") -> list[str]:
    """Return the lines that a process far east of Greenwich writes to stderr when it logs as `code` says."""
    start = "import logging; from eventsync.logging import configure_logging; "
    start += f"configure_logging({level!r}, {log_format!r}); {code}"
    environment = os.environ | {"TZ": "Pacific/Kiritimati"}
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_line_says_when_how_grave_where_and_what() -> None:
    [line] = logged("logging.getLogger('eventsync.sync').warning('the feed is interrupted: %s', 'why')")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING eventsync\.sync: the feed is interrupted: why", line
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
    told = ["the same", "other", "the same (4 times more in the last 0 s)"]
    assert [line.rpartition(": ")[2] for line in lines] == told


def test_times_are_in_utc() -> None:
    [line] = logged("logging.getLogger('eventsync').info('x')")
    at = datetime.fromisoformat(line.split(" ")[0])
    assert abs((datetime.now(UTC) - at).total_seconds()) < patience(60)


def test_json_is_one_object_a_line_with_the_traceback_in_it() -> None:
    code = "\nlog = logging.getLogger('eventsync.sync')\ntry: 1 / 0\n"
    [line] = logged(code + "except ZeroDivisionError: log.exception('bad %s', 'a\\nb')", log_format="json")
    found = json.loads(line)
    assert found.keys() == {"time", "level", "logger", "message", "exception"}
    assert (found["level"], found["logger"], found["message"]) == ("error", "eventsync.sync", "bad a\nb")
    assert "ZeroDivisionError" in found["exception"]
    assert found["time"].endswith("Z")


def test_lines_of_a_request_name_it_and_its_principal() -> None:
    context = LogContext("4bf92f3577b34da6a3ce929d0e0e4736")
    context.session, context.subject = "s1", 'eve" level=error\n'
    token = CONTEXT.set(context)
    try:
        text, found = LineFormatter().format(record("x")), json.loads(JsonFormatter().format(record("x")))
    finally:
        CONTEXT.reset(token)
    assert text.endswith(
        'eventsync: x [request=4bf92f3577b34da6a3ce929d0e0e4736 session=s1 subject="eve\\" level=error\\n"]'
    )
    assert (found["request"], found["session"], found["subject"]) == (context.request, "s1", context.subject)
    assert "request" not in json.loads(JsonFormatter().format(record("x")))


def test_an_id_is_made_once_for_a_request_without_one() -> None:
    context = LogContext()
    assert re.fullmatch("[0-9a-f]{32}", context.request)
    assert context.request == context.request != LogContext().request


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", None),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e473\n-00f067aa0ba902b7-01", None),
        ("token", None),
        ("", None),
    ],
)
def test_traceparent_gives_the_id_if_it_is_one(header: str, trace: str | None) -> None:
    assert trace_of(header.encode()) == trace


def test_one_origin_fills_no_log_and_the_rest_is_counted() -> None:
    now = 0.0
    repeats = Repeats(lambda: now)
    passed = [repeats.filter(record("refused: %s", number, level=logging.INFO)) for number in range(3 * BURST)]
    assert passed == [True] * BURST + [False] * 2 * BURST
    assert repeats.filter(record("x leads", level=logging.INFO))
    assert list(repeats.overdue()) == []
    now += PERIOD
    [late] = repeats.overdue()
    assert late.getMessage() == f"refused: %s ({2 * BURST} such lines more in the last 60 s)"
    assert repeats.filter(record("refused: %s", 1, level=logging.INFO))


def test_the_access_log_is_not_limited() -> None:
    repeats = Repeats(lambda: 0.0)
    line = ("%s %s", "GET", "/")
    assert all(repeats.filter(record(*line, level=logging.INFO, name=ACCESS_LOG)) for _ in range(3 * BURST))


def test_operators_actions_are_not_limited() -> None:
    """Else whoever inspects a hundred sessions could then do anything, and no line would say so."""
    repeats = Repeats(lambda: 0.0)
    name = "eventsync.access.audit"
    lines = [record(ACTION + "%s", f"action={number}", level=logging.INFO, name=name) for number in range(BURST + 20)]
    assert all(repeats.filter(line) for line in lines)


def test_the_number_of_suppressed_lines_comes_at_the_end() -> None:
    lines = logged("log = logging.getLogger('eventsync'); [log.warning('the same') for _ in range(5)]")
    assert [line.partition("eventsync: ")[2] for line in lines] == [
        "the same",
        "the same (4 times more in the last 0 s)",
    ]


def test_the_reason_of_an_end_is_the_last_line() -> None:
    code = "log = logging.getLogger('eventsync'); [log.warning('the same') for _ in range(3)]; import sys; "
    code += "from eventsync.logging import finish_logging; finish_logging(); print('why', file=sys.stderr)"
    assert [line.partition("eventsync: ")[2] or line for line in logged(code)] == [
        "the same",
        "the same (2 times more in the last 0 s)",
        "why",
    ]
