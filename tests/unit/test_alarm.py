from __future__ import annotations

import logging

import pytest

from app.alarm import Alarms


def test_an_alarm_is_logged_once_and_another_one_too(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms(logging.getLogger("app.test"))
    with caplog.at_level(logging.DEBUG, "app.test"):
        for what in ("one", "one", "two", "one"):
            alarms.tell(what)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "ALARM: one"),
        ("DEBUG", "ALARM: one"),
        ("ERROR", "ALARM: two"),
        ("DEBUG", "ALARM: one"),
    ]
