"""The cost of reading the documents of a filter: the way in which MongoDB finds them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from bson.objectid import ObjectId

from eventsync.domain.predicates.definitions import Definition, Route
from eventsync.mongodb.query_plans import QueryPlan

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
