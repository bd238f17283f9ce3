"""The figures are what is counted by hand, while events are in both tiers and some are gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsync.cli import status_tiers
from eventsync.domain.positions import Seq
from eventsync.settings import Settings
from eventsync.stores.stats.overview import JOBS, read_overview
from eventsync.stores.stores import ARCHIVING, Stores
from support.archives import archiver, begun, compactor, event, hot_seqs, stored


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    update = {"archive_url": str(tmp_path / "archive"), "hot_events": 10, "segment_events": 20, "retention_age": 0.0}
    return settings.model_copy(update=update)


async def test_before_anything_has_run(stores: Stores) -> None:
    found = await read_overview(stores)
    assert found.log is None
    assert [found.holder(job) for job in JOBS] == [None] * 4


async def test_they_are_what_is_there(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, [event(seq) for seq in range(1, 101)])
    await stores.stats.counters.add(log, Seq(100))
    await archiver(stores, settings).run_once()
    await compactor(stores, settings.model_copy(update={"retention_events": 75})).run_once()
    await stored(stores, log, "docs/int:1", 100)
    await stored(stores, log, "docs", 90)
    await stores.leases.acquire(ARCHIVING, "me", 60)
    figures = await read_overview(stores)
    found = figures.log
    assert found is not None
    assert (found.head, found.tiers) == (100, await stores.tiers.read(log))
    assert found.hot.events == len(await hot_seqs(stores, log)) == 20
    rows = await stores.log["events"].aggregate([{"$group": {"_id": None, "n": {"$sum": {"$bsonSize": "$$ROOT"}}}}])
    assert found.hot.bytes == pytest.approx((await rows.to_list())[0]["n"], rel=0.05)
    files = list((Path(settings.archive_url) / log).iterdir())
    assert (found.cold.segments, found.cold.bytes) == (len(files), sum(file.stat().st_size for file in files))
    assert found.cold.events == found.tiers.archived_up_to - found.tiers.horizon == 60
    assert [(item.shape, item.seq) for item in found.newest] == [("docs", 100)]
    assert (figures.holder(ARCHIVING), 0 <= figures.age(found.newest[0]) < 60) == ("me", True)
    shown = status_tiers.tree(figures, settings)
    assert shown["tiers"]["cold"]["events"] == 60
    assert shown["snapshots"][0]["position"] == f"{log}:100"
