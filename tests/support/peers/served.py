"""The system that the conformance suite runs against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import httpx
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.replica import to_tree
from support.systems import head
from support.waiting import patience, within
from support.writers import documents_of

COLLECTIONS: Final = ("orders", "customers")
CATALOG: Final = "catalog"
"""A collection of many parts; there before it was tracked."""

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Served:
    """The URL of a system, its settings, and the collections behind it."""

    url: str
    settings: Settings
    client: Client

    def collection(self, name: str) -> AsyncCollection[dict[str, Any]]:
        return self.client[self.settings.database].get_collection(name, codec_options=CODEC)

    async def rows(self, name: str) -> Rows:
        """Return the rows that every client of the collection has to hold."""
        return {key: to_tree(document) for key, document in (await documents_of(self.collection(name))).items()}

    async def seq(self, name: str, key: str) -> int:
        """Insert a document with this id; the number of its event."""
        await self.collection(name).insert_one({"_id": key})
        log = (await head(self.url)).partition(":")[0]
        query: dict[str, str | int] = {"shape": f"{name}/{key}", "position": f"{log}:0", "wait": 10}
        async with httpx.AsyncClient(base_url=self.url, timeout=patience(20)) as client, within(20):
            while True:  # much may be before it
                page = (await client.get("/v1/sync/log", params=query)).raise_for_status().json()
                if page["events"]:
                    return int(page["events"][0]["seq"])
                query["position"] = page["to"]
