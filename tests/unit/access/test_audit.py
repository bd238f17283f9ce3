"""Refusals are counted, and logged at a bounded rate and without secrets."""

from __future__ import annotations

import json
import logging

import pytest

from eventsync.access.audit import MAX_RECENT, Refusals
from eventsync.domain.access.principal import Principal
from eventsync.errors import Forbidden, NotTracked, Unauthenticated

ADA = Principal("ada", {"sub": "ada", "email": "canary@example.com"}, credential="jti:7f")
PATCH = "PATCH /v1/collections/{collection}/documents/{id}"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "eventsync.access.audit"]


def test_refusal_is_one_line_without_claims(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusals = Refusals()
    refusals.record(Forbidden("no rule allows it: canary"), ADA, PATCH)
    refusals.record(Unauthenticated("token_expired"), None, PATCH)
    assert lines(caplog) == [
        f'refused: subject="ada" credential="jti:7f" reason="policy" request="{PATCH}"',
        f'refused: reason="token_expired" request="{PATCH}"',
    ]
    assert refusals.counts == {"policy": 1, "token_expired": 1}


def test_refusal_names_whose_ended_credential_it_was(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusals = Refusals()
    for sub in ("ada", "eve"):
        refusals.record(Unauthenticated("token_revoked", subject=sub, credential=f"jti:{sub}"), None, PATCH)
    assert lines(caplog) == [
        f'refused: subject="{sub}" credential="jti:{sub}" reason="token_revoked" request="{PATCH}"'
        for sub in ("ada", "eve")
    ]
    assert [line["subject"] for line in refusals.recent] == ["ada", "eve"]


def test_subject_can_not_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Refusals().record(NotTracked("x"), Principal('a"\nrefused: subject="b' + "x" * 500), PATCH)
    (line,) = lines(caplog)
    assert "\n" not in line
    assert line.startswith('refused: subject="a\\"\\nrefused: subject=\\"b')
    assert len(line) < 400


def test_repeated_refusals_are_logged_once_in_a_minute_and_all_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    refusals = Refusals(lambda: now)
    for _ in range(1000):
        refusals.record(Forbidden("x"), ADA, PATCH)
    assert len(lines(caplog)) == 1
    now = 61.0
    refusals.record(Forbidden("x"), ADA, PATCH)
    assert lines(caplog)[1].endswith("(999 times more in the last 61 s)")
    assert refusals.counts["policy"] == 1001


@pytest.mark.parametrize(("text", "kept"), [("ä" * 1000, MAX_RECENT), ("\U0001f600" * 1000, 36)])
def test_newest_lines_are_published_within_bytes(text: str, kept: int) -> None:
    refusals = Refusals()
    for number in range(100):
        refusals.record(Forbidden("x"), Principal(f"{text}{number:03}", credential="key:k1"), PATCH)
    found = refusals.tree()
    assert found["counts"] == {"policy": 100}
    assert [line["subject"][-3:] for line in found["recent"]] == [f"{99 - n:03}" for n in range(kept)]
    assert len(json.dumps(found["recent"], ensure_ascii=False).encode()) < 34 * 1024
