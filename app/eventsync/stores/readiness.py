"""The check that MongoDB can be reached and used.

A process that starts before its MongoDB waits for it. A wrong configuration, which waiting cannot fix, is reported at
once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from pymongo.errors import OperationFailure, PyMongoError

from eventsync.concurrency.waiting import backoff, set_within
from eventsync.errors import ConfigurationError, Unavailable
from eventsync.mongodb.client import Client, connect
from eventsync.mongodb.errors import AUTHENTICATION_FAILED, short, unavailable
from eventsync.mongodb.privileges import ROLES_HINT, Missing, missing
from eventsync.settings import Settings
from eventsync.stores.archive.identity import ArchiveIdentity
from eventsync.stores.archive.objects import Objects
from eventsync.stores.formats import FormatStore

logger = logging.getLogger(__name__)

_SERVER_TIMEOUT: Final = 1.0
"""Longest wait for a MongoDB server, in seconds. It is short, so that a waiting process can stop soon."""

_PAUSE_CAP: Final = 5.0
_MONGODB_6: Final = 17
"""The wire version of MongoDB 6.0."""

_REFUSED: Final = {
    13: f"its user lacks a privilege, or none is given ({ROLES_HINT})",
    **dict.fromkeys(AUTHENTICATION_FAILED, "it refuses the user or the password"),
}
"""Messages for Unauthorized, AuthenticationFailed, and the code that Atlas uses for the latter."""


async def wait_for_mongodb(settings: Settings, role: str, stop: asyncio.Event) -> bool:
    """Wait until MongoDB can be used. Return False if `stop` is set first. Raises `ConfigurationError`."""
    failures = 0
    async with connect(settings, role, timeout=_SERVER_TIMEOUT) as client:
        while not stop.is_set():
            try:
                lacking = await _check_server(client, settings, role)
            except Unavailable as error:
                logger.warning("%s; trying again", error.diagnosis)
                await set_within(stop, backoff(failures, first=0.25, cap=_PAUSE_CAP))
                failures += 1
            else:
                logger.info("MongoDB is reached")
                if lacking:
                    logger.warning("the MongoDB user lacks %s; %s", "; ".join(map(str, lacking)), ROLES_HINT)
                await _check_archive(client, settings, role)
                return True
    return False


async def check(settings: Settings, role: str) -> None:
    """Check once. Raises `ConfigurationError`, and `Unavailable` if MongoDB cannot be used yet."""
    async with connect(settings, role, timeout=_SERVER_TIMEOUT) as client:
        await _check_server(client, settings, role)
        await _check_archive(client, settings, role)


@asynccontextmanager
async def connected(settings: Settings, role: str) -> AsyncIterator[Client]:
    """A client for a command. Raises `IncompatibleFormat` and `Unavailable` before anything is written."""
    async with connect(settings, role) as client:
        await FormatStore(client[settings.log_db]).check()
        yield client


async def _check_archive(client: Client, settings: Settings, role: str) -> None:
    """Check that a server can read the recorded archive. A worker uses `ArchiveIdentity.claim` instead."""
    if role != "serve":
        return
    try:
        await ArchiveIdentity(client[settings.log_db], Objects.of(settings.archive_url)).check()
    except Unavailable as error:
        logger.warning("%s; clients that are far behind wait for it", error.diagnosis)


async def _check_server(client: Client, settings: Settings, role: str) -> list[Missing]:
    """Return the optional privileges that the user lacks. Raises `ConfigurationError` and `Unavailable`."""
    try:
        hello = await client["admin"].command("hello")
        _check_kind(hello)
        lacking = await missing(client, settings, role)
        if fatal := [str(item) for item in lacking if not item.without]:
            raise ConfigurationError(f"the MongoDB user lacks {', '.join(fatal)}; {ROLES_HINT}")
        await client[settings.log_db]["logs"].find_one({}, {"_id": 1})
        await FormatStore(client[settings.log_db]).check()
        _check_names(await client.list_database_names(), settings)
    except PyMongoError as error:
        code = error.code if isinstance(error, OperationFailure) else None
        if code in _REFUSED:
            raise ConfigurationError(f"MongoDB can't be used: {_REFUSED[code]}: {short(error)}") from error
        topology = client.topology_description
        if topology.replica_set_name and topology.topology_type_name != "Single" and not topology.server_descriptions():
            # The driver drops a server that is not a member of the replica set in the connection string.
            raise ConfigurationError(
                f"MongoDB can't be used: it is no member of a replica set {topology.replica_set_name!r}"
            ) from error
        raise unavailable("MongoDB can't be used", error) from error
    return lacking


def _check_names(existing: Iterable[str], settings: Settings) -> None:
    for name in (settings.database, settings.log_db):
        if like := [other for other in existing if other.lower() == name.lower() and other != name]:
            raise ConfigurationError(f"there is a database {like[0]!r}; MongoDB has no {name!r} beside it")


def _check_kind(hello: Mapping[str, Any]) -> None:
    if hello["maxWireVersion"] < _MONGODB_6:
        raise ConfigurationError("MongoDB can't be used: it is older than 6.0")
    if hello.get("isreplicaset"):
        raise Unavailable("MongoDB can't be used yet: its replica set is not initiated")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise ConfigurationError("MongoDB can't be used: it is no replica set; start it with --replSet and initiate it")
