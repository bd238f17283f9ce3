"""Clients of a collection that was tracked again: some of its changes have no events, so they need a new snapshot."""

from __future__ import annotations

import pytest

from eventsync.domain.positions import Seq
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.clients import PEERS, following
from support.replay import caught_up, current_log
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
