"""Names of databases and collections: which are accepted."""

from __future__ import annotations

import shlex

from eventsync.errors import Malformed, NotTracked

MAX_COLLECTION_BYTES = 120
"""Longest collection name accepted. MongoDB allows 255 bytes for database and collection together."""


MAX_DATABASE_BYTES = 63
"""Longest database name that MongoDB allows."""

_MONGODBS_OWN = frozenset({"admin", "config", "local"})
_NOT_IN_COLLECTION = frozenset("$/?")
_NOT_IN_DATABASE = frozenset('/\\. "$*<>:|?\0')


def check_database(name: str) -> str:
    """Return `name` if it is a valid database name here. Raises `Malformed`."""
    if name in _MONGODBS_OWN:
        raise Malformed(f"{name!r} is MongoDB's own database")
    if not _NOT_IN_DATABASE.isdisjoint(name) or len(name.encode("utf-8", "surrogatepass")) > MAX_DATABASE_BYTES:
        raise Malformed(f'a database name has no /\\. "$*<>:|? and at most {MAX_DATABASE_BYTES} bytes')
    return name


def check_collection(name: object) -> str:
    """Return `name` if it is a valid name of a tracked collection. Raises `Malformed`. Every name is checked here.

    `/` would make shapes ambiguous, `$` and `system.` are reserved by MongoDB, and the driver refuses `..`.
    """
    if not isinstance(name, str) or not name or len(name.encode("utf-8", "surrogatepass")) > MAX_COLLECTION_BYTES:
        raise Malformed(f"a collection name has 1 to {MAX_COLLECTION_BYTES} bytes")
    if (
        name.startswith(("system.", "."))
        or name.endswith(".")
        or ".." in name
        or not name.isprintable()
        or not _NOT_IN_COLLECTION.isdisjoint(name)
    ):
        raise Malformed(f"{name!r} can't be a collection name here")
    return name


def not_tracked(name: str) -> NotTracked:
    """Return the error for a collection that is not tracked, with the remedy."""
    if "*" in name:
        remedy = "there is no wildcard: name one collection"
    else:
        remedy = f"`eventsync track {shlex.quote(name)}` changes that"
    return NotTracked(f"the collection {name!r} is not tracked; {remedy}")


def not_readable(name: str) -> str:
    """Return the text for those who may not learn whether a collection is tracked, or why it is not."""
    return f"there is no collection {name!r} that you may read"
