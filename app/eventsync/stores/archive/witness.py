"""The witness: the newest event of a log, recorded in the archive, outside of MongoDB.

Restoring a backup of MongoDB takes the log back, and nothing in MongoDB shows that. The archive, which is not restored
with it, shows how far the log had come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.change_stream import Token
from eventsync.stores.archive.objects import ObjectMissing, Objects
from eventsync.stores.log.stored_event import UNREADABLE

FOLDER: Final = "witness"
"""Not in the log's own folder, where every object that is no registered segment is swept."""


@dataclass(frozen=True, slots=True)
class Witness:
    """Event `seq` of a log existed, with this resume token."""

    seq: Seq
    token: Token


async def record_witness(objects: Objects, log: LogId, witness: Witness) -> None:
    """Replace the witness of a log. Raises `Unavailable`."""
    await objects.replace(_path(log), orjson.dumps({"seq": witness.seq, "token": witness.token}))


async def read_witness(objects: Objects, log: LogId) -> Witness | None:
    """Return the witness of a log, or None without a readable one. Raises `Unavailable`."""
    if not objects.is_there:
        return None
    try:
        tree: Any = orjson.loads(await objects.read(_path(log)))
        seq, token = tree["seq"], tree["token"]
    except (ObjectMissing, *UNREADABLE):
        return None
    return Witness(Seq(seq), token) if isinstance(seq, int) and isinstance(token, str) else None


async def forget_witness(objects: Objects, log: LogId) -> None:
    """Remove the witness of a former log. Raises `Unavailable`."""
    await objects.remove(_path(log))


def _path(log: LogId) -> str:
    return f"{FOLDER}/{log}.json"
