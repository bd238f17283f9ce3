"""Refusals of a MongoDB that answers."""

from __future__ import annotations

import pytest

from eventsync.errors import ConfigurationError
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.readiness import check


@pytest.mark.parametrize("role", ["serve", "worker"])
async def test_a_database_that_differs_in_case_only_from_one_there_is_refused(
    client: Client, settings: Settings, role: str
) -> None:
    await client[settings.database]["docs"].insert_one({"_id": 1})
    await check(settings, role)
    shouted = settings.model_copy(update={"database": settings.database.upper()})
    with pytest.raises(ConfigurationError, match=f"there is a database '{settings.database}'"):
        await check(shouted, role)
