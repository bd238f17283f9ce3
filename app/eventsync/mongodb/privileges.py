"""The MongoDB privileges that each role of process needs, and the check for missing ones.

`docs/guides/mongodb-roles.md` shows `ROLES` as role definitions to paste. A test compares the page with `ROLES` and
runs all processes with these roles.

Source: https://www.mongodb.com/docs/manual/reference/privilege-actions/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.mongodb.errors import Barred, translated
from eventsync.settings import Settings

ROLES_HINT: Final = "docs/guides/mongodb-roles.md has the roles to give"
DATA, LOG = "data", "log"
"""The database with the tracked collections, and the database with the event log."""

_WRITING: Final = ("insert", "update", "remove")

ROLES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "worker": {
        DATA: ("find", "changeStream", "listCollections", "collMod", "createCollection", "dropCollection"),
        LOG: ("find", "changeStream", *_WRITING, "createIndex", "collMod"),
        "local.system.replset": ("find",),
    },
    "serve": {
        DATA: ("find", "collStats", "listCollections", *_WRITING),
        LOG: ("find", "changeStream", "collStats", *_WRITING, "createIndex", "collMod"),
    },
    "restore": {
        DATA: ("find", "listCollections", "insert", "remove", "dropCollection", "renameCollectionSameDB"),
    },
    "read": {
        DATA: ("find", "changeStream", "collStats", "listCollections"),
        LOG: ("find", "changeStream", "collStats"),
        "log.pins": _WRITING,
    },
    "operate": {
        DATA: (
            *("find", "changeStream", "collStats", "listCollections"),
            *(*_WRITING, "createCollection", "dropCollection", "renameCollectionSameDB"),
        ),
        LOG: ("find", "changeStream", "collStats", *_WRITING),
    },
}
"""Role → where → actions.

`restore` is for a server, besides `serve`, so that operators may restore collections through it. `read` is for
`status`, `tail`, `history`, `diff` and `verify`; `operate` for all commands.
"""

_WITHOUT: Final[Mapping[tuple[str, str, str], str]] = {
    ("worker", DATA, "collMod"): "collections without pre- and post-images are not tracked",
    ("worker", DATA, "createCollection"): "collections that do not exist are not tracked",
    ("worker", DATA, "dropCollection"): "unfinished collections of restores that were killed stay",
    ("worker", LOG, "changeStream"): "rules apply, track and snapshot fail with this user",
    ("serve", DATA, "insert"): "no document is created through the API",
    ("serve", DATA, "update"): "no document is changed through the API",
    ("serve", DATA, "remove"): "no document is deleted through the API",
    ("serve", DATA, "collStats"): "the sizes of collections are not known to plans",
}
"""Optional privileges, and the feature that is missing without each. All others are required."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A privilege that the user lacks. `without` names the missing feature; it is empty for a required privilege."""

    action: str
    resource: str
    without: str

    def __str__(self) -> str:
        return f"{self.action} on {self.resource}" + (f" ({self.without})" if self.without else "")


async def missing(client: Client, settings: Settings, role: str) -> list[Missing]:
    """Return the privileges that a process of this role lacks; none if MongoDB does not enforce authorization.

    Raises the driver's errors.
    """
    if role not in ROLES:
        return []
    command = {"connectionStatus": 1, "showPrivileges": True}
    status = (await client["admin"].command(command, codec_options=CODEC))["authInfo"]
    if not status["authenticatedUsers"]:
        return []
    granted = status["authenticatedUserPrivileges"]
    return [
        Missing(action, resource, _WITHOUT.get((role, where, action), ""))
        for where, database, collection, resource in resources(role, settings)
        for action in ROLES[role][where]
        if not _allows(granted, database, collection, action)
    ]


async def require(client: Client, settings: Settings, role: str) -> None:
    """Raise `Barred`, which names the missing privileges, if one is required. Raises `Unavailable`."""
    with translated("the privileges of the MongoDB user can't be read"):
        lacking = [item for item in await missing(client, settings, role) if not item.without]
    if lacking:
        raise Barred(f"the MongoDB user lacks {', '.join(map(str, lacking))}; {ROLES_HINT}")


def resources(role: str, settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    """Yield each resource of a role: its key in `ROLES`, database, collection, and a name for messages."""
    databases = {DATA: settings.database, LOG: settings.log_db}
    for where in ROLES[role]:
        name, _, collection = where.partition(".")
        database = databases.get(name, name)
        yield where, database, collection, f"{database}.{collection}" if collection else database


def _allows(granted: list[Mapping[str, Any]], database: str, collection: str, action: str) -> bool:
    return any(
        action in privilege["actions"] and _covers(privilege["resource"], database, collection) for privilege in granted
    )


def _covers(resource: Mapping[str, Any], database: str, collection: str) -> bool:
    if resource.get("anyResource"):
        return True
    if "db" not in resource or resource["db"] not in {database, ""}:
        return False
    # "" stands for all collections except system collections.
    return resource["collection"] == collection or (not resource["collection"] and not collection.startswith("system."))
