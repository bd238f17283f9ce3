"""`verify` while retention removes what it is about to read, and while a new log begins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventsync.domain.positions import LogId, Seq
from eventsync.errors import Unavailable
from eventsync.settings import Settings
from eventsync.stores.archive.segments import Segment
from eventsync.stores.history.proof import prove
from eventsync.stores.history.verification import Verification, VerifiedPoint
from eventsync.stores.stores import Stores
from eventsync.sync.tasks import Task
from support.archives import BEGAN, archiver, begun, compactor, event, in_segments

EVENTS = [event(seq, id_text=f"int:{seq}") for seq in range(1, 101)]


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Segments of 20 events; 15 stay hot, 50 are kept."""
    return in_segments(settings, tmp_path, retention_age=0.0, retention_events=50)


@pytest.fixture
async def log(stores: Stores, settings: Settings) -> LogId:
    """A log with four segments, of which retention is about to remove two."""
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    return log


async def test_segments_that_retention_removes_meanwhile_are_no_fault(
    stores: Stores, settings: Settings, log: LogId, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    check = stores.archive.reader.check

    async def removed_before(segment: Segment) -> None:
        if checked == [1]:
            await compactor(stores, settings).run_once()
        checked.append(segment.span.first)
        await check(segment)

    monkeypatch.setattr(stores.archive.reader, "check", removed_before)
    verification = Verification(stores.history.reader, stores.history.comparison)
    assert await verification.numbers(_point(log), list[int]().append) is None
    assert checked == [1, 21, 41, 61]
    assert (await stores.archive.segments.totals(log)).segments == 2


@pytest.mark.parametrize("up_to", [40, 99], ids=["before_the_head", "past_the_head"])
@pytest.mark.parametrize("name", ["numbers", "chains"])
async def test_events_that_retention_removes_meanwhile_are_no_fault(
    stores: Stores, settings: Settings, log: LogId, monkeypatch: pytest.MonkeyPatch, name: str, up_to: int
) -> None:
    reader, horizon = stores.history.reader, stores.history.reader.horizon

    async def removed_after(log: LogId) -> Seq:
        known = await horizon(log)
        await stores.tiers.give_up(log, Seq(up_to))
        await compactor(stores, settings).run_once()
        return known

    monkeypatch.setattr(reader, "horizon", removed_after)
    verification, counts = Verification(reader, stores.history.comparison), list[int]()
    if name == "numbers":
        assert await verification.numbers(_point(log), counts.append) is None
    else:
        assert await verification.chains(_point(log), "docs", counts.append) is None
    assert sum(counts) == max(0, 90 - up_to)


async def test_new_log_ends_a_verification_without_a_finding(
    stores: Stores, settings: Settings, log: LogId, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = Verification.numbers

    async def begun_before(*arguments: Any) -> str | None:
        await begun(stores, EVENTS[:1])
        await compactor(stores, settings).run_once()
        return await numbers(*arguments)

    monkeypatch.setattr(Verification, "numbers", begun_before)
    with pytest.raises(Unavailable, match="a new log has begun"):
        await prove(stores, [], Task("verify", "docs", "paul"))


async def test_finding_for_observers_does_not_say_where_the_archive_is(
    stores: Stores, settings: Settings, log: LogId
) -> None:
    (file,) = (Path(settings.archive_url) / log).glob(f"{21:020}-*")
    file.unlink()
    report = await prove(stores, [], Task("verify", "docs", "paul"))
    assert report.wrong is not None
    assert f"{file.name} is not in the archive ({settings.archive_url})" in report.wrong.text
    finding = report.summary()["findings"][0]["text"]
    assert finding.endswith(f"{file.name} is not in the archive")
    assert settings.archive_url not in finding


async def test_segment_that_a_killed_compactor_has_left_stops_no_search_by_time(
    stores: Stores, settings: Settings, log: LogId
) -> None:
    """Every later run of the compactor begins with such a search."""
    await stores.tiers.raise_horizon(log, Seq(40))
    (file,) = (Path(settings.archive_url) / log).glob(f"{21:020}-*")
    file.unlink()
    at = BEGAN + timedelta(seconds=40, milliseconds=500)
    assert await stores.history.instants.newest(log, at, Seq(100)) == 0
    age = (datetime.now(UTC) - at).total_seconds()
    await compactor(stores, settings.model_copy(update={"retention_age": age})).run_once()
    assert (await stores.archive.segments.totals(log)).segments == 2


def _point(log: LogId) -> VerifiedPoint:
    """The state after event 90."""
    return VerifiedPoint(log, Seq(90), EVENTS[89].time, Seq(90), settled=True)
