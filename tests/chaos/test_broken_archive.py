"""Archives that are broken on purpose: what read the log along finds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eventsync.domain.ids import IdText
from eventsync.domain.segments.format import SealedEvent
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.archive import tiered_log
from eventsync.stores.stores import Stores
from support.archives import archiver, begun, event, in_segments
from support.chaos.evidence import LogRow
from support.chaos.observed import LogTail, joined, read_rows


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Segments of 20 events, and 15 events stay in MongoDB."""
    return in_segments(settings, tmp_path)


async def archived(client: Client, stores: Stores, settings: Settings) -> tuple[tuple[LogRow, ...], tuple[str, ...]]:
    """All rows of a log of 60 events, 40 of them in the archive, and what is wrong with those."""
    await begun(stores, [event(seq) for seq in range(1, 61)])
    tail = LogTail(client, stores)
    await tail.read()
    await archiver(stores, settings).run_once()
    rows = await read_rows(client, settings.log_db)
    found, wrong = await tail.archived()
    assert len(found) == 40
    return joined(found, rows), wrong


async def test_an_archive_has_the_log_as_it_was(client: Client, stores: Stores, settings: Settings) -> None:
    rows, wrong = await archived(client, stores, settings)
    assert ([row.seq for row in rows], wrong) == (list(range(1, 61)), ())
    assert [row.token for row in rows] == [event(seq).token for seq in range(1, 61)], "those that were read along"


@pytest.mark.parametrize("change", [{"id": IdText("int:9")}, {"time": event(9).time}, {"body": event(9).event.body}])
async def test_an_event_that_is_sealed_otherwise_is_found(
    client: Client, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    seal = tiered_log.sealed_event

    def sealed_otherwise(row: dict[str, Any]) -> SealedEvent:
        found = seal(row)
        return replace(found, **change) if found.seq == 7 else found

    monkeypatch.setattr(tiered_log, "sealed_event", sealed_otherwise)
    _, wrong = await archived(client, stores, settings)
    assert len(wrong) == 1
    assert ":7 " in wrong[0]
