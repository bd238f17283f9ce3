"""Reading under random rules: what each door shows is what MongoDB finds, and an independent redaction leaves."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import orjson
import pytest
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from support.ruled import RULES, Ruled, read_rules
from support.waiting import eventually

DOCUMENTS = "/v1/collections/open/documents"
SIMPLE = {"locale": "simple"}
SUBJECTS = ("ada", "bob", "cyd")
TEAMS = ("red", "blue", "green")

Json = dict[str, Any]
Rule = dict[str, Any] | bool


@pytest.fixture
def documents(ruled: Ruled, client: Client) -> AsyncCollection[Json]:
    return client[ruled.settings.database].get_collection("open", codec_options=CODEC)


@pytest.fixture
async def own_rules(ruled: Ruled) -> AsyncIterator[None]:
    """Give the rules of the other tests back afterwards."""
    yield
    ruled.control.replace(read_rules(RULES, ruled.folder), 1)


# --- random rules and documents ---------------------------------------------------------------------------------------


def leaf(chance: random.Random) -> Json:
    return chance.choice(
        [
            {"owner": "$claims.sub"},
            {"readers": "$claims.sub"},
            {"team": {"$in": "$claims.teams"}},
            {"owner": "$claims.boss"},
            {"public": True},
            {"n": {"$gte": chance.randrange(5)}},
            {"team": chance.choice(TEAMS)},
            {"deep.kind": {"$in": ["a", "b"]}},
            {"parts.size": {"$exists": True}},
        ]
    )


def rule(chance: random.Random, depth: int = 2) -> Rule:
    kind = chance.random()
    if depth == 2 and kind < 0.1:
        return True
    if not depth or kind < 0.4:
        return leaf(chance)
    parts = [rule(chance, depth - 1) for _ in range(chance.randint(2, 3))]
    return {chance.choice(["$or", "$and"]): parts}


def table(chance: random.Random) -> Json:
    found: Json = {"read": rule(chance)}
    if chance.random() < 0.6:
        paths = ["secret", "deep.secret", "parts.secret", "parts.*.inner", "deep", "*.kind"]
        found["hide"] = chance.sample(paths, chance.randint(1, 3))
    if chance.random() < 0.2:
        found["fields"] = ["owner", "team", "n", "deep", "parts"]
    return found


def document(chance: random.Random, number: int) -> Json:
    optional: Json = {
        "owner": chance.choice([*SUBJECTS, None, 5]),
        "readers": chance.sample(SUBJECTS, chance.randrange(3)),
        "team": chance.choice([*TEAMS, list(TEAMS[:2])]),
        "public": chance.choice([True, False, 1, "yes"]),
        "secret": f"canary-{number}",
        "deep": {"kind": chance.choice("abc"), "secret": f"canary-{number}", "list": [{"kind": 1, "rest": 2}]},
        "parts": [{"size": 1, "secret": "canary"}, {"inner": {"x": 1}, "kind": 2}, "text", [{"secret": "canary"}]],
    }
    kept = {name: value for name, value in optional.items() if chance.random() < 0.7}
    return {"_id": f"{number:04}", "n": chance.randrange(8), **kept}


# --- the same, independently ------------------------------------------------------------------------------------------


def bound(tree: Any, claims: Mapping[str, Any]) -> Any:
    """Put the claims in. Raises `KeyError` for a missing one."""
    if isinstance(tree, dict):
        return {name: bound(value, claims) for name, value in tree.items()}
    if isinstance(tree, list):
        return [bound(item, claims) for item in tree]
    return claims[tree.removeprefix("$claims.")] if isinstance(tree, str) and tree.startswith("$claims.") else tree


def stripped(value: Any, paths: list[list[str]], *, top: bool = True) -> Any:
    """Remove what is at one of the paths, in all items of arrays."""
    if isinstance(value, list):
        # A star stands for the index of an item, too.
        inner = [*paths, *(path[1:] for path in paths if path[0] == "*" and len(path) > 1)]
        dropped = any(path == ["*"] for path in paths)
        return [] if dropped else [stripped(item, inner, top=False) for item in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, item in value.items():
        below = [path[1:] for path in paths if path[0] in (name, "*")]
        if top and name == "_id":
            found[name] = item
        elif [] not in below:
            found[name] = stripped(item, below, top=False) if below else item
    return found


class Oracle:
    """The documents that one principal may see, by MongoDB and by `stripped`."""

    def __init__(self, tables: list[Json], claims: Json) -> None:
        self.filters: list[Json] = []
        seeing = []
        for each in tables:
            try:
                found = {} if each["read"] is True else bound(each["read"], claims)
            except KeyError:
                continue
            self.filters.append(found)
            seeing.append(each)
        # A role that reads everything makes one superfluous that hides more.
        self.tables = [
            each
            for each in seeing
            if not any(other["read"] is True and _hides_more(each, other) for other in seeing if other is not each)
        ]

    def shown(self, found: Json) -> Json:
        for each in self.tables:
            if "fields" in each:
                found = {name: value for name, value in found.items() if name in {"_id", *each["fields"]}}
            found = stripped(found, [path.split(".") for path in each.get("hide", ())])
        return found

    async def readable(self, documents: AsyncCollection[Json], where: Json | None = None) -> dict[str, Json]:
        if not self.filters:
            return {}
        query = {"$and": [{"$or": self.filters}, where or {}]}
        return {row["_id"]: self.shown(row) async for row in documents.find(query, {"_sync": 0}, collation=SIMPLE)}


def _hides_more(one: Json, other: Json) -> bool:
    hidden, fields = one.get("hide", ()), one.get("fields")
    if "fields" in other and fields is None:
        return False
    within = (path in hidden or (fields and path.split(".")[0] not in (*fields, "*")) for path in other.get("hide", ()))
    return all(within) and one != other


async def listed(reader: httpx.AsyncClient, **query: Any) -> dict[str, Json]:
    rows: dict[str, Json] = {}
    params: dict[str, Any] = {"limit": 3, **query}
    while True:
        answer = await reader.get(DOCUMENTS, params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        new = {row["id"]: row["doc"] for row in page["documents"]}
        assert not rows.keys() & new.keys()
        rows |= new
        if "next" not in page:
            return rows
        params["after"] = page["next"]


@pytest.mark.slow
@pytest.mark.usefixtures("own_rules")
@pytest.mark.parametrize("seed", range(25))
async def test_doors_show_what_mongodb_finds_without_what_is_hidden(
    ruled: Ruled, operator: httpx.AsyncClient, documents: AsyncCollection[Json], seed: int
) -> None:
    chance = random.Random(seed)
    await documents.delete_many({})
    await documents.create_index("n")
    tables = [table(chance) for _ in range(chance.choice([1, 1, 2]))]
    roles = {f"role{number}": True for number in range(len(tables))}
    tree = {
        "roles": {"operator": {"roles": "ops"}, **roles},
        "collections": {"open": dict(zip(roles, tables, strict=True)), "*": RULES["collections"]["*"]},
    }
    ruled.control.replace(read_rules(tree, ruled.folder), 10 + seed)
    claims: Json = {"sub": chance.choice(SUBJECTS)}
    if chance.random() < 0.8:
        claims["teams"] = chance.sample(TEAMS, chance.randint(1, 2))
    if chance.random() < 0.5:
        claims["boss"] = chance.choice(SUBJECTS)
    first = [document(chance, number) for number in range(12)]
    await documents.insert_many(first)
    oracle = Oracle(tables, claims)
    async with ruled.client(**claims) as reader:
        was = await _compared(reader, documents, oracle, first)
        position = await _settled(operator, documents)
        await documents.delete_many({})
        await documents.insert_many([document(chance, number) for number in range(12)])
        now = await _compared(reader, documents, oracle, first)
        await _settled(operator, documents)
        for row in first:
            then = await reader.get(f"{DOCUMENTS}/{row['_id']}", params={"position": position})
            if row["_id"] in was and row["_id"] in now:
                assert then.json()["doc"] == was[row["_id"]], tables
            else:
                assert then.status_code == 404, (tables, then.text)


async def _compared(
    reader: httpx.AsyncClient, documents: AsyncCollection[Json], oracle: Oracle, rows: list[Json]
) -> dict[str, Json]:
    """Compare every door that reads the present; return what may be seen of each document."""
    expected = await oracle.readable(documents)
    if not oracle.filters:
        assert (await reader.get(DOCUMENTS)).status_code == 404
        return expected
    assert await listed(reader) == expected
    assert list(await listed(reader, sort="_id")) == sorted(expected)
    where = {"n": {"$gte": 3}}
    answer = await listed(reader, filter=orjson.dumps(where).decode()) if not _hides(oracle, "n") else None
    assert answer is None or answer == await oracle.readable(documents, where)
    for row in rows:
        found = await reader.get(f"{DOCUMENTS}/{row['_id']}")
        assert found.status_code == (200 if row["_id"] in expected else 404), (row, oracle.filters)
        assert found.status_code == 404 or found.json()["doc"] == expected[row["_id"]]
    return expected


def _hides(oracle: Oracle, name: str) -> bool:
    # A path that begins with a star may lead anywhere.
    starred = any(path.startswith("*") for each in oracle.tables for path in each.get("hide", ()))
    return starred or name not in oracle.shown({"_id": 1, name: 1})


async def _settled(operator: httpx.AsyncClient, documents: AsyncCollection[Json]) -> str:
    """Return a position that has the present state of all documents."""
    await documents.insert_one({"_id": "marker", "n": 0})
    await documents.delete_one({"_id": "marker"})

    async def position() -> str | None:
        events = (await operator.get(f"{DOCUMENTS}/marker/events", params={"limit": 1000})).json()["events"]
        ended = [event for event in events if event["op"] == "delete"]
        return None if not ended or ended[-1]["seq"] in _SEEN else f"{ended[-1]['seq']}"

    seq = await eventually(position, 10)
    _SEEN.add(int(seq))
    log = (await operator.get("/readyz")).json()["position"].partition(":")[0]
    return f"{log}:{seq}"


_SEEN: set[int] = set()
