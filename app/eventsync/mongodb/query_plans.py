"""Plans of queries, as MongoDB explains them: which indexes serve a filter, and whether it scans the collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.errors import translated

SIMPLE: Final = {"locale": "simple"}
"""The collation of all filters: an index with another one does not serve them."""

_EVERYTHING: Final = ["[MinKey, MaxKey]"]


@dataclass(frozen=True, slots=True)
class UsedIndex:
    """An index of a plan, and the fields of it that are bounded by the filter."""

    name: str
    bounded: frozenset[str]


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """The plan that MongoDB chooses for a filter and an order.

    `is_scan` is True if it reads the whole collection, and `sorts` if it sorts in memory: no index has the order.
    """

    is_scan: bool
    indexes: tuple[UsedIndex, ...]
    sorts: bool = False


class QueryPlans:
    """Explains queries of the tracked collections. Nothing is executed."""

    def __init__(self, database: Any) -> None:
        """`database` is one of PyMongo's async API, or of Motor."""
        self._database = database

    async def plan(
        self,
        collection: str,
        filter: Mapping[str, Any],  # noqa: A002 - MongoDB's word
        sort: Mapping[str, int] | None = None,
    ) -> QueryPlan:
        """Return the plan of a `find`. A collection that does not exist is not scanned. Raises `Unavailable`."""
        find = {"find": collection, "filter": dict(filter), "collation": SIMPLE, "sort": dict(sort or {})}
        with translated(f"the plan of a query of {collection} can't be read"):
            explained = await self._database.command(
                {"explain": find, "verbosity": "queryPlanner"}, codec_options=CODEC
            )
        # A sharded cluster has a planner for each shard; newer versions wrap the plan.
        stages = list(_stages(explained.get("queryPlanner", {}).get("winningPlan", {})))
        indexes = {
            UsedIndex(
                stage["indexName"],
                frozenset(name for name, bounds in stage.get("indexBounds", {}).items() if bounds != _EVERYTHING),
            )
            for stage in stages
            if "indexName" in stage
        }
        names = {stage["stage"] for stage in stages}
        return QueryPlan("COLLSCAN" in names, tuple(sorted(indexes, key=lambda index: index.name)), "SORT" in names)


def _stages(plan: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the stages of a plan, at any depth."""
    if isinstance(plan, list):
        for part in plan:
            yield from _stages(part)
    elif isinstance(plan, Mapping):
        if "stage" in plan:
            yield plan
        for part in plan.values():
            yield from _stages(part)
