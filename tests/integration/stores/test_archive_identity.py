"""The identity of the log's archive: recorded once, compared by everybody, never mistaken for another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from eventsync.domain.positions import LogId
from eventsync.errors import ConfigurationError
from eventsync.settings import Settings
from eventsync.stores.archive.identity import MARK, ArchiveIdentity
from eventsync.stores.archive.objects import Objects
from eventsync.stores.stores import Stores

LOG = LogId("abcdefgh")


def identity(stores: Stores, directory: Path | None) -> ArchiveIdentity:
    return ArchiveIdentity(stores.log, Objects(str(directory)) if directory else None)


async def refusal(checked: ArchiveIdentity) -> str:
    with pytest.raises(ConfigurationError) as raised:
        await checked.check()
    return raised.value.diagnosis


async def with_segment(stores: Stores, directory: Path) -> None:
    """Register a segment, as if it were sealed there."""
    await Objects(str(directory)).put("log/1.seg", b"x")
    await stores.log["segments"].insert_one({"_id": {"l": LOG, "n": 1}, "path": "log/1.seg"})


async def test_before_a_worker_has_recorded_one_no_archive_is_wrong(stores: Stores, tmp_path: Path) -> None:
    await identity(stores, None).check()
    await identity(stores, tmp_path / "later").check()
    assert not (tmp_path / "later").exists()


async def test_an_unreadable_archive_is_refused_before_anything_is_recorded(stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "archive_url can't be used" in await refusal(identity(stores, tmp_path / "file"))
    with pytest.raises(ConfigurationError, match="archive_url can't be used"):
        await identity(stores, tmp_path / "file").claim(LOG)


async def test_another_archive_than_the_recorded_one_is_refused(stores: Stores, tmp_path: Path) -> None:
    await identity(stores, tmp_path / "a").claim(LOG)
    await identity(stores, tmp_path / "a").check()
    recorded = str(tmp_path / "a")
    assert recorded in await refusal(identity(stores, None))
    assert recorded in await refusal(identity(stores, tmp_path / "b"))
    await Objects(str(tmp_path / "b")).put(MARK, b'{"archive": "other"}')
    assert "has another mark" in await refusal(identity(stores, tmp_path / "b"))
    await Objects(str(tmp_path / "c")).put(MARK, b"\xff")
    assert "has another mark" in await refusal(identity(stores, tmp_path / "c"))


async def test_an_archive_that_was_moved_is_the_same(stores: Stores, tmp_path: Path) -> None:
    await identity(stores, tmp_path / "a").claim(LOG)
    shutil.move(tmp_path / "a", tmp_path / "b")
    await identity(stores, tmp_path / "b").check()
    await identity(stores, tmp_path / "b").claim(LogId("other"))


async def test_while_events_are_in_it_no_other_is_taken(stores: Stores, tmp_path: Path) -> None:
    await identity(stores, tmp_path / "a").claim(LOG)
    await with_segment(stores, tmp_path / "a")
    for other in (None, tmp_path / "b"):
        with pytest.raises(ConfigurationError):
            await identity(stores, other).claim(LOG)
    assert not (tmp_path / "b").exists()


async def test_events_that_were_archived_before_any_record_are_looked_for(stores: Stores, tmp_path: Path) -> None:
    await with_segment(stores, tmp_path / "a")
    for wrong in (None, tmp_path / "b"):
        with pytest.raises(ConfigurationError):
            await identity(stores, wrong).claim(LOG)
    await identity(stores, tmp_path / "a").claim(LOG)
    await identity(stores, tmp_path / "a").check()


async def test_one_with_nothing_in_it_is_given_up_for_another_or_for_none(stores: Stores, tmp_path: Path) -> None:
    await identity(stores, tmp_path / "a").claim(LOG)
    await identity(stores, tmp_path / "b").claim(LOG)
    await identity(stores, tmp_path / "b").check()
    await refusal(identity(stores, tmp_path / "a"))
    await identity(stores, None).claim(LOG)
    await identity(stores, None).check()
    await identity(stores, tmp_path / "b").claim(LOG)


async def test_while_a_worker_runs_another_does_not_change_the_archive_for_all(stores: Stores, tmp_path: Path) -> None:
    await identity(stores, tmp_path / "a").claim(LOG)
    assert await stores.leases.acquire("sequencing", "the first worker", 60.0)
    for other in (tmp_path / "b", None):
        with pytest.raises(ConfigurationError):
            await identity(stores, other).claim(LOG)
        await identity(stores, tmp_path / "a").check()
    await stores.leases.release("sequencing", "the first worker")
    await identity(stores, tmp_path / "b").claim(LOG)
    await identity(stores, tmp_path / "b").check()


async def test_a_second_worker_keeps_the_mark_of_the_first(stores: Stores, tmp_path: Path) -> None:
    first, second = identity(stores, tmp_path / "a"), identity(stores, tmp_path / "a")
    await first.claim(LOG)
    mark = (tmp_path / "a" / MARK).read_bytes()
    await second.claim(LOG)
    assert (tmp_path / "a" / MARK).read_bytes() == mark


async def test_the_wrong_archive_removes_nothing(stores: Stores, settings: Settings, tmp_path: Path) -> None:
    await identity(stores, tmp_path / "a").claim(LOG)
    await with_segment(stores, tmp_path / "a")
    wrong = settings.model_copy(update={"archive_url": str(tmp_path / "b")})
    with pytest.raises(ConfigurationError, match="has not the log's mark"):
        await Stores.of(stores.log.client, wrong).archive.identity.claim(LOG)
