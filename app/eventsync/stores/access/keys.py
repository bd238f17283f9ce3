"""Service keys: the collection `service_keys`. A key is stored as a hash; its text is shown once.

`esk_<id>_<secret>`: the secret has 256 random bits, so a plain hash of it is as good as a slow one.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from bson.binary import Binary
from pymongo import ASCENDING, ReturnDocument
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.errors import RateLimited, Unavailable
from eventsync.logging import Alarms
from eventsync.mongodb.clocks import NOW, literals
from eventsync.mongodb.errors import translated
from eventsync.mongodb.ttl_index import ensure_expiry

_alarms = Alarms(logging.getLogger(__name__))

PREFIX: Final = "esk_"

COLLECTION: Final = "service_keys"

_LISTED_FOR: Final = timedelta(days=30)
"""Time that a key is listed after it has expired or was revoked."""

_UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """A key without its secret. `name` is for people; `claims` has the `sub` of what is written with it."""

    id: str
    hash: bytes
    name: str
    roles: frozenset[str]
    claims: Mapping[str, Any]
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def is_proven_by(self, secret: str) -> bool:
        """Return True if this is the key's secret. Takes the same time for every wrong one."""
        return hmac.compare_digest(self.hash, _hash(secret))


def split(text: str) -> tuple[str, str] | None:
    """Return the id and the secret in the text of a key, or None if it is none."""
    kind, _, rest = text.partition("_")
    id_, _, secret = rest.partition("_")
    return (id_, secret) if kind == "esk" and id_ and secret and text.isascii() else None


class KeyStore:
    """Reads and writes the keys. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any], *, max_keys: int) -> None:
        self._keys = database[COLLECTION]
        self._max_keys = max_keys

    async def ensure_indexes(self) -> None:
        """Create the index that removes keys some time after their end. Raises `Unavailable`."""
        with translated("the index of the service keys can't be made"):
            await ensure_expiry(self._keys, "gone", 1)

    async def create(
        self, name: str, *, roles: frozenset[str], claims: Mapping[str, Any], expires: datetime | None
    ) -> tuple[ServiceKey, str]:
        """Store a new key, and return it with its text. Raises `RateLimited` if there are too many."""
        id_, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        row: dict[str, Any] = {"hash": Binary(_hash(secret)), "name": name, "roles": sorted(roles)}
        row |= {"claims": orjson.dumps(claims).decode()}
        if expires is not None:
            row |= {"expires": expires, "gone": expires + _LISTED_FOR}
        # By MongoDB's clock, as the revocations that the time is compared with.
        change = [{"$set": literals(row) | {"created": NOW}}]
        with translated("the service key can't be stored"):
            if await self._keys.count_documents({}, limit=self._max_keys) >= self._max_keys:
                raise RateLimited(f"there are {self._max_keys} service keys: revoke some (EVENTSYNC_SERVICE_KEYS)")
            stored: Any = await self._keys.find_one_and_update(
                {"_id": id_}, change, upsert=True, return_document=ReturnDocument.AFTER
            )
        return _key(stored), f"{PREFIX}{id_}_{secret}"

    async def revoke(self, id: str) -> bool:  # noqa: A002 - as everybody calls it
        """Note that a key is revoked. Return False if there is no such key."""
        now = datetime.now(UTC)
        change = [
            {"$set": {"revoked": {"$ifNull": ["$revoked", now]}, "gone": {"$ifNull": ["$gone", now + _LISTED_FOR]}}}
        ]
        with translated("the service key can't be revoked"):
            return (await self._keys.update_one({"_id": {"$eq": id}}, change)).matched_count > 0

    async def read(self, ids: Iterable[str] | None = None) -> Sequence[ServiceKey]:
        """Return all keys, or those of `ids`, the oldest first. One that was edited by hand is left out, and logged."""
        wanted = {} if ids is None else {"_id": {"$in": list(ids)}}
        with translated("the service keys can't be read"):
            rows = await self._keys.find(wanted, sort=[("created", ASCENDING)], limit=self._max_keys + 1).to_list(None)
        return [key for row in rows if (key := _readable(row)) is not None]

    async def find(self, id: str) -> ServiceKey | None:  # noqa: A002
        """Return a key, or None."""
        with translated("the service keys can't be read"):
            row = await self._keys.find_one({"_id": {"$eq": id}})
        return None if row is None else _key(row)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _readable(row: Mapping[str, Any]) -> ServiceKey | None:
    try:
        return _key(row)
    except Unavailable as error:
        _alarms.log(error.message)
        return None


def _key(row: Mapping[str, Any]) -> ServiceKey:
    try:
        claims = orjson.loads(row["claims"])
        expires, revoked = (_time(row.get(name)) for name in ("expires", "revoked"))
        roles = frozenset(map(str, row["roles"]))
        return ServiceKey(
            str(row["_id"]), bytes(row["hash"]), str(row["name"]), roles, dict(claims), row["created"], expires, revoked
        )
    except _UNREADABLE as error:
        # Closed, rather than without its expiry.
        raise Unavailable(f"the service key {str(row.get('_id'))[:32]!r} was edited by hand: remove it") from error


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise TypeError("it is no time")
    return value if value.tzinfo else value.replace(tzinfo=UTC)
