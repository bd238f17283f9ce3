"""MongoDB change events made by hand, as the driver delivers them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.values.extended_json import CODEC, RAW_CODEC

AT = datetime(2026, 11, 23, 5, 22, 46, 405_000, tzinfo=UTC)
SESSION = uuid.UUID("6f1c3b9a-0d5e-4c21-9b7f-1a2b3c4d5e6f")


def token(seconds: int, increment: int = 0) -> str:
    """A resume token's `_data` for a cluster time."""
    return f"82{seconds:08X}{increment:08X}2B"


def change(
    kind: str, *, key: Any = 1, time: int = 1, txn: int | None = None, collection: str = "orders", **fields: Any
) -> RawBSONDocument:
    """One change of the document `_id: key` at cluster time `time`, in transaction `txn` of one session."""
    body: dict[str, Any] = {
        "_id": {"_data": token(time)},
        "operationType": kind,
        "clusterTime": Timestamp(time, 1),
        "wallTime": AT,
        "ns": {"db": "app", "coll": collection},
        "documentKey": {"_id": key},
    }
    if txn is not None:
        body |= {"lsid": {"id": SESSION, "uid": b""}, "txnNumber": bson.Int64(txn)}
    return RawBSONDocument(bson.encode(body | fields, codec_options=CODEC), RAW_CODEC)


def inserted(key: Any = 1, **options: Any) -> RawBSONDocument:
    return change("insert", key=key, fullDocument={"_id": key}, **options)
