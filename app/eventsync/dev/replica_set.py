"""Makes one replica set of several running mongod processes, once, for a cluster of its own (compose)."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from eventsync.dev.mongod import REPLICA_SET
from eventsync.errors import ConfigurationError, EventsyncError, Unavailable
from eventsync.mongodb.errors import short

_ALREADY: Final = 23
_PAUSE: Final = 0.2


def main() -> None:
    """Run the script. The exit code is 0 once there is a primary, 2 for wrong arguments, else 1."""
    try:
        primary = initiate(sys.argv[1:], timeout=120)
    except EventsyncError as error:
        sys.stderr.write(f"initiate-replica-set: {error.diagnosis}\n")
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
    sys.stdout.write(f"{REPLICA_SET} is ready; its primary is {primary}\n")


def initiate(members: Sequence[str], *, timeout: float, election_timeout: float = 10.0) -> str:
    """Initiate the set `rs0` of `members` (`host:port`, as every client will reach them); return its primary.

    An initiated set is left as it is. Members elect a new primary after `election_timeout` seconds without the old one.
    Raises `ConfigurationError` without members, and `Unavailable` if there is no primary after `timeout` seconds.
    """
    if not members or not all(":" in member for member in members):
        raise ConfigurationError("name the members, each as host:port")
    deadline = time.monotonic() + timeout
    last = "it does not answer"
    while time.monotonic() < deadline:
        try:
            _initiate_by(members[0], members, election_timeout)
            if primary := _primary(members):
                return primary
            last = "no primary is elected"
        except PyMongoError as error:
            last = short(error)
        time.sleep(_PAUSE)
    raise Unavailable(f"the replica set has no primary after {timeout:g} s: {last}")


def _initiate_by(address: str, members: Sequence[str], election_timeout: float) -> None:
    config = {
        "_id": REPLICA_SET,
        "members": [{"_id": number, "host": host} for number, host in enumerate(members)],
        "settings": {"electionTimeoutMillis": int(election_timeout * 1000)},
    }
    with _client(address, directConnection=True) as client:
        if "setName" in client.admin.command("hello"):
            return
        try:
            client.admin.command("replSetInitiate", config)
        except OperationFailure as error:
            if error.code != _ALREADY:
                raise


def _primary(members: Sequence[str]) -> str | None:
    with _client(list(members), replicaSet=REPLICA_SET) as client:
        hello = client.admin.command("hello")
    return str(hello["me"]) if hello["isWritablePrimary"] else None


def _client(address: str | list[str], **options: Any) -> MongoClient[dict[str, Any]]:
    return MongoClient(address, serverSelectionTimeoutMS=1000, connectTimeoutMS=1000, **options)
