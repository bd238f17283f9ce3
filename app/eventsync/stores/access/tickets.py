"""Tickets: the collection `tickets`. A ticket stands in the URL of an event stream, where a token must not.

It is opaque, stored as a hash, for certain shapes, and ends with the credential that it was made by.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from bson.binary import Binary
from pymongo import ASCENDING
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.access.principal import Principal
from eventsync.errors import RateLimited, Unavailable
from eventsync.mongodb.capacity import Capacity
from eventsync.mongodb.errors import translated
from eventsync.mongodb.ttl_index import ensure_expiry

PREFIX: Final = "est_"
MAX_TICKET: Final = 64
"""Longest ticket, in characters."""

KEPT: Final = 60.0
"""Seconds for which a ticket is kept after its end. It is accepted for less than that, as every credential."""

_UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The principal that made a ticket, with the ticket's own end, and the shapes that it is for, as texts.

    The principal's `credential` is that by which the ticket was made: what revokes that one revokes the ticket.
    """

    principal: Principal
    shapes: frozenset[str]


class TicketStore:
    """Reads and writes tickets. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any], *, max_tickets: int, per_principal: int) -> None:
        self._tickets = database["tickets"]
        self._per_principal = per_principal
        self._max_tickets = max_tickets
        self._capacity = Capacity(self._tickets, documents=max_tickets, size=max_tickets * 16 * 1024)

    async def ensure_indexes(self) -> None:
        """Create the indexes. Raises `Unavailable`."""
        with translated("the indexes of the tickets can't be made"):
            await ensure_expiry(self._tickets, "end", 1)
            await self._tickets.create_index([("sub", ASCENDING)])

    async def create(self, ticket: Ticket, *, now: float) -> str:
        """Store a ticket, and return its text. Raises `RateLimited` if there are too many."""
        principal, text = ticket.principal, PREFIX + secrets.token_urlsafe(32)
        if principal.expires is None:
            raise ValueError("a ticket has an end")
        row = {
            "_id": _hash(text),
            "sub": principal.sub,
            "claims": orjson.dumps(dict(principal.claims)).decode(),
            "roles": sorted(principal.roles),
            "issued": principal.issued,
            "credential": principal.credential,
            "shapes": sorted(ticket.shapes),
            "expires": principal.expires,
            # MongoDB removes it then. Servers compare `expires` with their own clock, and add their leeway.
            "end": datetime.fromtimestamp(principal.expires + KEPT, UTC),
        }
        own = {"sub": {"$eq": principal.sub}, "expires": {"$gt": now}}
        with translated("the ticket can't be stored"):
            if await self._tickets.count_documents(own, limit=self._per_principal) >= self._per_principal:
                raise RateLimited(f"a principal has at most {self._per_principal} tickets; wait until some have ended")
            if await self._capacity.is_full():
                raise RateLimited(f"there are {self._max_tickets} tickets already; wait until some have ended")
            await self._tickets.insert_one(row)
        self._capacity.add()
        return text

    async def find(self, text: str) -> Ticket | None:
        """Return a ticket, or None. It may have expired."""
        with translated("the ticket can't be read"):
            row = await self._tickets.find_one({"_id": _hash(text)})
        return None if row is None else _ticket(row)


def _hash(text: str) -> Binary:
    return Binary(hashlib.sha256(text.encode()).digest())


def _ticket(row: Mapping[str, Any]) -> Ticket:
    try:
        issued = None if row["issued"] is None else float(row["issued"])
        claims, roles = dict(orjson.loads(row["claims"])), frozenset(map(str, row["roles"]))
        principal = Principal(str(row["sub"]), claims, roles, float(row["expires"]), issued, str(row["credential"]))
        return Ticket(principal, frozenset(map(str, row["shapes"])))
    except _UNREADABLE as error:
        raise Unavailable("the ticket was edited by hand: make another one") from error
