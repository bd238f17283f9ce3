"""Requests for snapshots, which the snapshotter answers: the collection `snapshot_requests`."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from bson.timestamp import Timestamp
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.shapes import Shape
from eventsync.errors import Malformed
from eventsync.mongodb.clocks import NOW
from eventsync.mongodb.errors import translated

_FORGOTTEN = 86400
"""The time after which a request is removed, answered or not, in seconds."""


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """A request for a snapshot of `shape` at cluster time `time` or later, with its answer.

    The answer is the id of the `snapshot`, or the reason why it was `refused`.
    """

    id: str
    shape: Shape
    time: Timestamp
    snapshot: str | None = None
    refused: str | None = None


def requestable(shape: Shape) -> Shape:
    """Return `shape` if snapshots of it are stored. Raises `Malformed`."""
    if shape.declared is not None:
        raise Malformed(f"{shape} is a declared shape; a snapshot is stored of a collection or a document")
    return shape


class SnapshotRequests:
    """The requests, `{_id, shape, s: cluster time, at, snapshot?, refused?}`. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._requests: AsyncCollection[Any] = database["snapshot_requests"]

    async def ensure_indexes(self) -> None:
        """Create the TTL index that removes old requests."""
        with translated("the index of requests can't be made"):
            await self._requests.create_indexes(
                [IndexModel([("at", ASCENDING)], name="expiry", expireAfterSeconds=_FORGOTTEN)]
            )

    async def ask(self, shape: Shape, time: Timestamp) -> str:
        """Request a snapshot at `time` or later. Return the id of the request."""
        name = secrets.token_hex(8)
        fields = {"shape": {"$literal": str(shape)}, "s": time, "at": NOW}
        with translated("a snapshot can't be asked for"):
            await self._requests.update_one({"_id": name}, [{"$set": fields}], upsert=True)
        return name

    async def unanswered(self) -> list[SnapshotRequest]:
        """Return the unanswered requests, oldest first. Refuse those for an invalid shape."""
        query = {"snapshot": None, "refused": None}
        with translated("the requests for snapshots can't be read"):
            rows = await self._requests.find(query, sort=[("at", ASCENDING)]).to_list()
        requests = []
        for row in rows:
            try:
                requests.append(_request(row))
            except Malformed as error:
                await self._answer(row["_id"], snapshot=None, refused=error.message)
        return requests

    async def answer(
        self, request: SnapshotRequest, *, snapshot: str | None = None, refused: str | None = None
    ) -> None:
        """Answer with the id of a snapshot, or with the reason for refusing it."""
        await self._answer(request.id, snapshot=snapshot, refused=refused)

    async def _answer(self, name: str, *, snapshot: str | None, refused: str | None) -> None:
        # The first answer stays: a worker that was paused may refuse what another one has answered since.
        query = {"_id": name, "snapshot": None, "refused": None}
        with translated("a request for a snapshot can't be answered"):
            await self._requests.update_one(query, {"$set": {"snapshot": snapshot, "refused": refused}})

    async def read(self, name: str) -> SnapshotRequest | None:
        """Return the request, or None."""
        with translated("the request for a snapshot can't be read"):
            row = await self._requests.find_one({"_id": name})
        return _request(row) if row else None

    async def withdraw(self, name: str) -> None:
        """Remove the request."""
        with translated("the request for a snapshot can't be withdrawn"):
            await self._requests.delete_one({"_id": name})


def _request(row: dict[str, Any]) -> SnapshotRequest:
    shape = requestable(Shape.parse(row["shape"]))
    return SnapshotRequest(row["_id"], shape, row["s"], row.get("snapshot"), row.get("refused"))
