"""Clients of a collection that was tracked again: some of its changes have no events, so they need a new snapshot."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventsync.cli.verify import prove
from eventsync.domain.positions import Seq
from eventsync.mongodb.client import app_name
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.snapshotter import Snapshotter
from support.clients import PEERS, following
from support.failpoints import failing
from support.replay import caught_up, current_log, eventually, tracked
from support.systems import running_system


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs", "others")})


@pytest.mark.parametrize("transport", PEERS)
async def test_live_client_is_reset_though_its_server_saw_the_collection_active_all_along(
    stores: Stores, settings: Settings, transport: str
) -> None:
    """A server that was frozen, or cut off, sees only the result: another beginning."""
    async with running_system(settings) as url, following(url, "docs", transport) as follower:
        await stores.data["docs"].insert_one({"_id": 1})
        log = await caught_up(stores)
        await follower.reached(f"{log}:1")
        # Behind the next event: the client's position may be the head of now, but not that one.
        await stores.tracking.activate(["docs"], log, Seq(2))
        await stores.data["others"].insert_one({"_id": 1})
        await stores.data["docs"].insert_one({"_id": 2})
        await caught_up(stores)
        await follower.reached(f"{log}:3")
        assert follower.replica.resets > 0
        assert set(follower.replica.rows) == {"int:1", "int:2"}
    assert await current_log(stores) == log


@pytest.mark.slow
@pytest.mark.parametrize(("transport", "before"), [*zip(PEERS, (0, 1, 0), strict=True), ("websocket", 1)])
async def test_client_gets_what_was_written_while_nothing_was_tracked(
    stores: Stores, settings: Settings, transport: str, before: int, caplog: pytest.LogCaptureFixture
) -> None:
    """No event has been appended meanwhile, so only the restart itself tells the old position from a new one."""
    caplog.set_level(logging.INFO)
    settings = settings.model_copy(update={"collections": ("docs",)})
    async with running_system(settings) as url, following(url, "docs", transport) as follower:
        for number in range(before):
            await stores.data["docs"].insert_one({"_id": number})
        log = await caught_up(stores)
        await follower.reached(f"{log}:{before}")
        await stores.tracking.forget(["docs"])

        async def is_followed_no_more() -> bool | None:
            line = f"log {log}: sequencing nothing yet from {before}"
            return True if caplog.messages.count(line) > (before == 0) else None

        await eventually(stores, "heads", is_followed_no_more)
        await stores.data["docs"].insert_one({"_id": "between"})
        await caught_up(stores)
        assert await stores.events.head(log) == before
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        await follower.has("between")
        await stores.data["docs"].insert_one({"_id": "after"})
        await follower.has("after")
        assert follower.replica.resets > 0
        assert await stores.events.head(log) == before + 2
    assert await current_log(stores) == log


async def drop(stores: Stores, _: Settings) -> None:
    await stores.data["docs"].drop()


async def rename_away(stores: Stores, _: Settings) -> None:
    await stores.data["docs"].rename("elsewhere")


async def rename_onto(stores: Stores, _: Settings) -> None:
    await stores.data["elsewhere"].insert_one({"_id": "other"})
    await stores.data["elsewhere"].rename("docs", dropTarget=True)


async def lose_history(stores: Stores, settings: Settings) -> None:
    await stores.data["docs"].delete_many({})
    async with failing(stores.data.client, "getMore", 286, app=app_name(settings, "worker"), times=1):
        await stores.data["docs"].insert_one({"_id": "lost"})
        await caught_up(stores)


@pytest.mark.slow
@pytest.mark.parametrize("lose", [drop, rename_away, rename_onto, lose_history])
async def test_collection_that_is_lost_before_its_first_snapshot_resets_its_own_clients_only(
    stores: Stores,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    lose: Callable[[Stores, Settings], Awaitable[None]],
) -> None:
    """The log does not know which documents it had."""
    make_due = Snapshotter._make_due

    async def make_others_due(self: Snapshotter, log_id: Any, collection: str, *rest: Any) -> None:
        if collection != "docs":
            await make_due(self, log_id, collection, *rest)

    async def stored(name: str) -> bool | None:
        return True if name in await stores.snapshots.stored.positions(await current_log(stores)) else None

    monkeypatch.setattr(Snapshotter, "_make_due", make_others_due)
    await stores.data["docs"].insert_one({"_id": "old"})
    async with (
        running_system(settings) as url,
        following(url, "docs", "websocket") as follower,
        following(url, "others", "websocket") as other,
    ):
        await eventually(stores, "snapshots", lambda: stored("others"))
        for name in ("docs", "others"):
            await stores.data[name].insert_one({"_id": 1})
        log = await caught_up(stores)
        await follower.reached(f"{log}:1")
        await other.reached(f"{log}:2")
        await lose(stores, settings)
        await caught_up(stores)
        await tracked(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        await stores.data["others"].insert_one({"_id": 2})
        head = await stores.events.head(await caught_up(stores))
        await follower.reached(f"{log}:{head - 1}")
        await other.reached(f"{log}:{head}")
        found = {str(row["_id"]) async for row in stores.data["docs"].find()}
        assert {key.removeprefix("int:") for key in follower.replica.rows} == found
        assert "old" not in found
        assert set(other.replica.rows) == {"int:1", "int:2"}
        assert follower.replica.resets > 0
        assert other.replica.resets == 0
        monkeypatch.undo()
        await eventually(stores, "snapshots", lambda: stored("docs"))
        report = await prove(settings, [])
        assert report.whole, report.tree()
    assert await current_log(stores) == log
