"""The record of the stored formats: made once, raised on request, obeyed by whoever knows less."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventsync import __version__
from eventsync.errors import IncompatibleFormat
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores import formats
from eventsync.stores.formats import FORMATS, Format, FormatStore, Step
from eventsync.stores.readiness import check
from eventsync.stores.stores import Stores
from support.waiting import within

NEWEST = {name: known.newest for name, known in FORMATS.items()}
NEXT = {**FORMATS, "events": Format("events of a later version", ("events",), oldest=1, newest=2)}
"""The formats of a later version of eventsync."""


def later(stores: Stores, known: dict[str, Format] | None = None) -> FormatStore:
    return FormatStore(stores.log, known or NEXT)


async def begun(stores: Stores) -> None:
    """A log that has no record: an earlier version made it."""
    await stores.log["logs"].insert_one({"_id": "k3f9ab2c"})


async def test_a_worker_records_the_newest_versions_in_a_new_database(stores: Stores) -> None:
    assert await stores.formats.pending() == []
    await later(stores).ensure()
    recorded = await later(stores).read()
    assert recorded is not None
    assert recorded.versions == NEWEST | {"events": 2}
    assert recorded.by == __version__


async def test_a_log_without_a_record_has_the_first_version_of_everything(stores: Stores) -> None:
    await begun(stores)
    await stores.formats.check()
    await later(stores).ensure()
    recorded = await stores.formats.read()
    assert recorded is not None
    assert set(recorded.versions.values()) == {1}
    assert await stores.formats.pending() == []
    assert await later(stores).pending() == [Step("events", 1, 2)], "old processes may still run"


async def test_the_first_of_many_records(stores: Stores) -> None:
    await asyncio.gather(*(stores.formats.ensure() for _ in range(8)))
    assert await stores.log["deployment"].count_documents({}) == 1


async def test_migration_raises_what_is_lower_and_is_repeated_without_effect(stores: Stores) -> None:
    await begun(stores)
    assert {step.name: (step.before, step.after) for step in await stores.formats.pending()} == {
        name: (None, version) for name, version in NEWEST.items()
    }
    await stores.formats.migrate()
    assert await later(stores).migrate() == [Step("events", 1, 2)]
    assert await later(stores).migrate() == []
    added = {**NEXT, "added": Format("a format that is new")}
    assert await later(stores, added).migrate() == [Step("added", None, 1)]
    recorded = await later(stores, added).read()
    assert recorded is not None
    assert recorded.versions == NEWEST | {"events": 2, "added": 1}


@pytest.mark.parametrize("role", ["serve", "worker"])
async def test_an_older_version_refuses_a_later_format(stores: Stores, settings: Settings, role: str) -> None:
    await later(stores).ensure()
    for refused in (stores.formats.check(), stores.formats.ensure(), stores.formats.migrate(), check(settings, role)):
        with pytest.raises(IncompatibleFormat) as raised:
            await refused
        assert "'events' in version 2" in raised.value.message
        assert f"eventsync {__version__} knows versions up to 1" in raised.value.message
    await later(stores).check()


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        (NEWEST | {"unheard_of": 1}, "does not know it"),
        (NEWEST | {"events": "2"}, "can't be read"),
        ([], "can't be read"),
        (None, "can't be read"),
    ],
)
async def test_any_other_record_is_refused(stores: Stores, versions: Any, said: str) -> None:
    await stores.log["deployment"].insert_one({"_id": "formats", "versions": versions})
    with pytest.raises(IncompatibleFormat, match=said):
        await stores.formats.ensure()


async def test_a_later_version_refuses_a_format_that_it_does_not_read_any_more(stores: Stores) -> None:
    await stores.formats.ensure()
    much_later = later(stores, {**FORMATS, "events": Format("events", oldest=2, newest=3)})
    with pytest.raises(IncompatibleFormat, match="of a version between the two first"):
        await much_later.check()


async def test_a_process_that_runs_sees_that_the_record_was_raised(
    client: Client, settings: Settings, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "PERIOD", 0.02)
    await stores.formats.ensure()
    stop = asyncio.Event()
    watching = asyncio.create_task(FormatStore(client[settings.log_db]).watch(stop))
    await later(stores).migrate()
    async with within(10):
        with pytest.raises(IncompatibleFormat):
            await watching
    stop.set()
    await stores.formats.watch(stop)
