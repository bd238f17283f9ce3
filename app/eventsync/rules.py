"""The rules file: what it declares, what its shapes cost to read in a database, and `dev`, which follows it."""

from __future__ import annotations

import asyncio
import json
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from bson.objectid import ObjectId

from eventsync.domain.predicates.declarations import Declarations, read_rules
from eventsync.domain.predicates.definitions import Definition, Route
from eventsync.errors import ConfigurationError, EventsyncError, Unavailable
from eventsync.mongodb.client import connect
from eventsync.mongodb.query_plans import QueryPlan
from eventsync.settings import Settings
from eventsync.stores.log.definitions import Applied, Declaration
from eventsync.stores.stores import Stores

DEFAULT: Final = Path("rules.toml")
"""The rules file if none is named: of the current directory."""

MAX_BYTES: Final = 1024 * 1024
"""Most bytes of a rules file."""

_SAMPLES: Final[Mapping[str, Any]] = {
    "text": "a",
    "int": 0,
    "number": 0.5,
    "bool": True,
    "date": datetime(2026, 1, 1, tzinfo=UTC),
    "oid": ObjectId("000000000000000000000000"),
    "uuid": uuid.UUID(int=0),
    "null": None,
    "any": "a",
}
"""A value of each type. Which indexes can serve a filter depends on the types of its values alone."""


def path_of(settings: Settings, named: Path | None = None) -> Path:
    """Return the path of the rules file: the one that is named, else that of the settings, else the default."""
    return named or settings.rules_file or DEFAULT


def read_file(path: Path) -> Declarations:
    """Read a rules file. Raises `ConfigurationError` if it can't be read or is not TOML."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigurationError(f"the rules file {path} has more than {MAX_BYTES} bytes")
        return read_rules(tomllib.loads(content.decode()))
    except OSError as error:
        raise ConfigurationError(f"the rules file {path} can't be read: {error.strerror}") from error
    except ValueError as error:  # of TOML, and of UTF-8
        raise ConfigurationError(f"the rules file {path} is not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigurationError(f"the rules file {path} nests too deeply") from error


def require_valid(path: Path, declarations: Declarations) -> None:
    """Raise `ConfigurationError`, with the first problem of a rules file, if there is any."""
    if declarations.problems:
        first, *others = declarations.problems
        more = f" (and {len(others)} more: see `eventsync rules check`)" if others else ""
        raise ConfigurationError(f"the rules file {path} can't be applied: {first.message}{more}")


def applied_text(applied: Applied) -> str:
    """Return the outcome of an apply as a line."""
    parts = (("new", applied.new), ("changed", applied.changed), ("removed", applied.removed))
    said = [f"{what}: {', '.join(names)}" for what, names in parts if names]
    said += [f"{len(applied.unchanged)} unchanged"] if applied.unchanged or not said else []
    return f"rules {applied.number}: {'; '.join(said)}"


# --- what a shape costs to read -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """The way in which MongoDB finds the documents of a shape. `wanted`: the fields of indexes that would help."""

    plan: QueryPlan
    is_scan: bool
    reason: str
    wanted: tuple[tuple[str, ...], ...]


class PlanReader(Protocol):
    """Explains queries, as `QueryPlans` does."""

    async def plan(self, collection: str, filter: Mapping[str, Any]) -> QueryPlan:  # noqa: A002 - MongoDB's word
        """Return the plan of a `find`."""


async def cost_of(plans: PlanReader, definition: Definition, route: Route | None = None) -> Cost:
    """Return the cost of a route, or of the most expensive of a few routes of a shape. Raises `Unavailable`."""
    filters = [route.filter] if route else _sample_filters(definition)
    costs = [_cost(definition, await plans.plan(definition.collection, each)) for each in filters]
    return max(costs, key=lambda cost: cost.is_scan)


def _cost(definition: Definition, plan: QueryPlan) -> Cost:
    if plan.is_scan:
        return Cost(plan, True, f"scans {definition.collection}", wanted_indexes(definition))
    fields = frozenset(path for branch in definition.branches for path in branch.paths)
    for index in plan.indexes:
        # The index finds the documents of all routes together, such as all open orders of all owners.
        if fields and not fields & index.bounded:
            return Cost(plan, True, f"reads the routes of all values by {index.name}", wanted_indexes(definition))
    names = ", ".join(index.name for index in plan.indexes)
    return Cost(
        plan, False, f"uses {names}" if names else f"finds nothing: is there a collection {definition.collection}?", ()
    )


def _sample_filters(definition: Definition) -> Iterator[Mapping[str, Any]]:
    """Yield the filters of a few routes, so that each type of each parameter is in one of them."""
    kinds = {name: sorted(names) for name, names in definition.types.items()}
    for turn in range(max(map(len, kinds.values()), default=1)):
        values = {name: _SAMPLES[names[turn % len(names)]] for name, names in kinds.items()}
        given = {name: [value] if name in definition.lists else value for name, value in values.items()}
        yield definition.bind(given).filter


def wanted_indexes(definition: Definition) -> tuple[tuple[str, ...], ...]:
    """Return the fields of an index for each branch of a shape's filter: those that its parameters are compared with.

    For a shape without parameters, the first field of its filter.
    """
    paths = [branch.paths for branch in definition.branches if branch.paths]
    if not paths:
        return tuple((name,) for name in definition.where if not name.startswith("$"))[:1]
    return tuple(dict.fromkeys(paths))


def create_index(collection: str, fields: tuple[str, ...]) -> str:
    """Return the command of `mongosh` that creates an index."""
    keys = ", ".join(f"{json.dumps(field, ensure_ascii=False)}: 1" for field in fields)
    name = f".{collection}" if collection.isidentifier() else f".getCollection({json.dumps(collection)})"
    return f"db{name}.createIndex({{{keys}}})"


# --- following the file -------------------------------------------------------------------------------------------

_POLL: Final = 0.3
"""Seconds between two looks at the file."""

Say = Callable[[str, str], None]
"""Prints a line in a style."""

_Version = tuple[int, int, int]
"""What changes with a file: its number, its time and its size."""


class RulesFollower:
    """Applies the rules file at once and after each change, for `eventsync dev`. `settings` name a MongoDB.

    The shapes stay declared if the file is removed.
    """

    def __init__(self, settings: Settings, say: Say) -> None:
        self._settings = settings
        self._say = say
        self._path = path_of(settings)
        self._is_expected = settings.rules_file is not None
        self._seen: _Version | None = None

    async def run(self) -> None:
        """Apply the file, again after each change, until cancelled."""
        if self._is_expected and _version(self._path) is None:
            self._say(f"there is no rules file {self._path} yet", "yellow")
        version = _version(self._path)
        while True:
            if version != self._seen and await self._changed(version):
                self._seen = version
            version = await self._settled()

    async def _settled(self) -> _Version | None:
        """Return the version of the file once two looks in a row have found it.

        Many editors truncate a file before they write it. An empty file declares nothing, and would end every shape.
        """
        version = _version(self._path)
        while True:
            await asyncio.sleep(_POLL)
            before, version = version, _version(self._path)
            if version == before:
                return version

    async def _changed(self, version: _Version | None) -> bool:
        """Apply a version of the file. Return True unless it is to be tried again."""
        if version is None:
            self._say(f"{self._path} is gone; its shapes stay declared", "yellow")
            return True
        try:
            declarations = read_file(self._path)
            if _version(self._path) != version:
                return False
            await self._apply(declarations)
        except Unavailable as error:
            self._say(f"{error.diagnosis}; the rules are applied later", "yellow")
            return False
        except EventsyncError as error:
            self._say(error.diagnosis, "red")
        return True

    async def _apply(self, declarations: Declarations) -> None:
        for problem in declarations.problems:
            self._say(f"{self._path}: {problem.message}", "red")
        if declarations.problems:
            return
        async with connect(self._settings, "dev") as client:
            stores = Stores.of(client, self._settings)
            definitions = list(declarations.definitions.values())
            applied = await stores.definitions.apply([Declaration.of(item) for item in definitions])
            # The worker tracks the collections of the settings when it starts.
            asked = {*self._settings.collections, *(item.name for item in await stores.tracking.read())}
        self._say(f"{self._path}: {applied_text(applied)}", "")
        for collection in sorted({item.collection for item in definitions} - asked):
            self._say(f"{collection} has shapes and is not tracked: `eventsync track {collection}`", "yellow")


def _version(path: Path) -> _Version | None:
    """Return the version of a file; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
