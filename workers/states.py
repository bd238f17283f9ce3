"""Exact states of a document that a change event does not carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from app.domain.values import RAW_CODEC, Document
from app.driver import translated
from app.stores.changes import HistoryLost

_TOO_OLD = frozenset({239, 246})
_NEEDS = {"insert": (False, True), "update": (True, True), "replace": (True, True), "delete": (True, False)}


class StateReader:
    """Reads a document as it was at a change's own cluster time (MongoDB keeps five minutes of that by default).

    The second choice, for a change without its images: made before they were switched on again, say, by somebody who
    dropped and remade the collection. Inside a transaction it sees only the transaction's outcome, which as a
    replacement is still exact.
    """

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._database = database

    async def completed(self, change: Mapping[str, Any]) -> Mapping[str, Any]:
        """`change`, with both states that its conversion needs. Raises `HistoryLost` when MongoDB has them no more."""
        before, after = _NEEDS[change["operationType"]]
        if not (before and change.get("fullDocumentBeforeChange") is None) and not (
            after and change.get("fullDocument") is None
        ):
            return change
        return await self._read(dict(change), before=before, after=after)

    async def outcome(self, change: Mapping[str, Any]) -> Mapping[str, Any]:
        """The change's outcome alone, read from the collection: the document as a replacement, or its deletion."""
        before, after = _NEEDS[change["operationType"]]
        return await self._read(dict(change), before=before, after=after)

    async def _read(self, change: Document, *, before: bool, after: bool) -> Document:
        time: Timestamp = change["clusterTime"]
        if after:
            document = await self._at(change, time)
            if document is None:
                return change | {"operationType": "delete", "fullDocumentBeforeChange": {}}
            change |= {"fullDocument": document, "operationType": "replace"}
        if before:
            earlier = await self._at(change, _just_before(time))
            change |= {"fullDocumentBeforeChange": earlier or {}}
        return change

    async def _at(self, change: Document, time: Timestamp) -> RawBSONDocument | None:
        key = dict(change["documentKey"])
        command = {
            "find": change["ns"]["coll"],
            "filter": {"_id": {"$eq": key["_id"]}},
            "limit": 1,
            "singleBatch": True,
            "readConcern": {"level": "snapshot", "atClusterTime": time},
        }
        with translated("a document's earlier state can't be read"):
            try:
                answer = await self._database.command(command, codec_options=RAW_CODEC)
            except OperationFailure as error:
                if error.code in _TOO_OLD:
                    raise HistoryLost(
                        f"{key['_id']!r}: the change has no image and its time is no longer kept"
                    ) from error
                raise
        found: list[RawBSONDocument] = answer["cursor"]["firstBatch"]
        return found[0] if found else None


def _just_before(time: Timestamp) -> Timestamp:
    return Timestamp(time.time, time.inc - 1) if time.inc else Timestamp(time.time - 1, 2**32 - 1)
