"""A system under rules: a worker and a server in this process, and tokens for principals."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

from eventsync import application
from eventsync.access.control import AccessControl
from eventsync.domain.access.rules import AccessRules, read_access
from eventsync.domain.predicates import declarations
from eventsync.domain.predicates.definitions import Definition
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.log.registry import Declaration
from eventsync.stores.stores import Stores
from support.identity import secret_file, token
from support.systems import running_server, running_worker
from support.waiting import eventually, patience

CANARY = "canary-7f3a"
"""Begins every value that nobody but an operator may see."""

RULES: dict[str, Any] = {
    "roles": {"operator": {"roles": "ops"}, "observer": {"roles": "watch"}, "user": True},
    "collections": {
        "things": {
            "user": {
                "read": {"$or": [{"owner": "$claims.sub"}, {"public": True}]},
                "create": {"owner": "$claims.sub"},
                "update": {"owner": "$claims.sub", "state": {"$ne": "closed"}},
                "after": True,
                "delete": {"owner": "$claims.sub"},
                "hide": ["secret", "lines.cost"],
                "fixed": ["made"],
            }
        },
        "open": {"user": {"read": True, "create": True, "update": True, "delete": True}},
        "*": {"operator": {"read": True, "create": True, "update": True, "delete": True}},
    },
    "shapes": {
        f"of_{field}": {
            "collection": "things",
            "where": {field: f"${field}"},
            "parameters": {field: {"type": "text"}},
        }
        for field in ("secret", "state")
    },
}
"""Everybody reads `open` and writes it; of `things` what is theirs or public; nothing of other collections."""


THINGS = "/v1/collections/things/documents"
MERGE = {"Content-Type": "application/merge-patch+json"}
PATCH = {"Content-Type": "application/json-patch+json"}


def read_rules(tree: Mapping[str, Any], secret: Path) -> AccessRules:
    """Return rules with an issuer `backend`, whose secret is in a file."""
    issuer = {"iss": "backend", "secret_file": str(secret), "algorithms": ["HS256"]}
    found, problems = read_access({"auth": {"issuers": [issuer]}, **tree})
    assert found is not None, problems
    return found


@dataclass(frozen=True)
class Ruled:
    """A server under rules. `control` is its access control, whose rules a test may replace."""

    url: str
    settings: Settings
    control: AccessControl
    secret: Path

    def client(self, sub: str | None, **claims: Any) -> httpx.AsyncClient:
        """Return a client with a token for `sub`; without one for None."""
        headers = {} if sub is None else {"Authorization": f"Bearer {self.token(sub, **claims)}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=patience(20))

    def token(self, sub: str, **claims: Any) -> str:
        return token(now=time.time(), sub=sub, **claims)


@asynccontextmanager
async def ruled_system(settings: Settings, folder: Path, tree: Mapping[str, Any] = RULES) -> AsyncIterator[Ruled]:
    """Run a worker, and a server under rules."""
    secret = secret_file(folder)
    controls: list[AccessControl] = []

    class Control(AccessControl):
        """Is known to the test."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            controls.append(self)

    with mock.patch.object(application, "AccessControl", Control):
        shapes = declarations.read_rules({"shapes": tree.get("shapes", {})}).definitions
        await applied(settings, read_rules(tree, secret), shapes.values())
        async with running_worker(settings), running_server(settings) as url:
            ruled = Ruled(url, settings, controls[0], secret)
            async with ruled.client("root", roles=["ops"]) as operator, ruled.client("ada") as user:
                await eventually(lambda: _served(operator, user, set(settings.collections)), 20)
            yield ruled


async def applied(settings: Settings, rules: AccessRules, shapes: Iterable[Definition] = ()) -> None:
    """Put rules in force, as `eventsync rules apply` does."""
    async with connect(settings, "test") as client:
        declared = map(Declaration.of, (*rules.definitions.values(), *shapes))
        await Stores.of(client, settings).definitions.apply(declared, rules.spec)


async def _served(operator: httpx.AsyncClient, user: httpx.AsyncClient, names: set[str]) -> bool:
    """Return True once all collections are tracked, and a user is served what the rules give it of each."""
    listed = {item["name"] for item in (await operator.get("/v1/collections")).json().get("collections", ())}
    own = [item["name"] for item in (await user.get("/v1/collections")).json().get("collections", ())]
    answers = [await user.get("/v1/sync/snapshot", params={"shape": name}) for name in own]
    return names <= listed and all(answer.status_code == 200 for answer in answers)


async def made(operator: httpx.AsyncClient, id_text: str, **fields: Any) -> httpx.Response:
    """Have the operator make a document with hidden fields."""
    document = {
        "owner": "ada",
        "n": 1,
        "secret": f"{CANARY}-{id_text}",
        "lines": [{"of": "x", "cost": CANARY}],
    } | fields
    answer = await operator.put(f"{THINGS}/{id_text}", json=document)
    assert answer.status_code == 201, answer.text
    return answer
