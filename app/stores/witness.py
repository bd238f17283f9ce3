"""How far a log has come, recorded outside of MongoDB: one small object a log, beside its segments.

A backup of MongoDB that is restored takes the log back, and nothing in it says so. The archive is not restored with it,
or is what tells where the log had been.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from app.domain.position import LogId, Seq
from app.stores.changes import Token
from app.stores.objects import ObjectMissing, Objects
from app.stores.stored_event import UNREADABLE

FOLDER: Final = "witness"
"""Not the log's own folder: what lies there and is no registered segment is swept."""


@dataclass(frozen=True, slots=True)
class Witness:
    """Event `seq` of a log was there, with this token."""

    seq: Seq
    token: Token


async def record_witness(objects: Objects, log: LogId, witness: Witness) -> None:
    """Replace what is recorded of a log. Raises `Unavailable`."""
    await objects.replace(_path(log), orjson.dumps({"seq": witness.seq, "token": witness.token}))


async def read_witness(objects: Objects, log: LogId) -> Witness | None:
    """What is recorded of a log; None where nothing is that can be read. Raises `Unavailable`."""
    if not objects.is_there:
        return None
    try:
        tree: Any = orjson.loads(await objects.read(_path(log)))
        seq, token = tree["seq"], tree["token"]
    except (ObjectMissing, *UNREADABLE):
        return None
    return Witness(Seq(seq), token) if isinstance(seq, int) and isinstance(token, str) else None


async def forget_witness(objects: Objects, log: LogId) -> None:
    """Remove what is recorded of a former log. Raises `Unavailable`."""
    await objects.remove(_path(log))


def _path(log: LogId) -> str:
    return f"{FOLDER}/{log}.json"
