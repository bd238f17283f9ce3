"""A system under rules: a worker and a server in this process, and tokens for principals."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

from eventsync import application
from eventsync.access.control import AccessControl
from eventsync.domain.access.rules import AccessRules, read_access
from eventsync.settings import Settings
from support.identity import secret_file, token
from support.systems import running_server, running_worker
from support.waiting import eventually, patience

CANARY = "canary-7f3a"
"""Begins every value that nobody but an operator may see."""

RULES: dict[str, Any] = {
    "roles": {"operator": {"roles": "ops"}, "user": True},
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
}
"""Everybody reads `open` and writes it; of `things` what is theirs or public; nothing of other collections."""


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
    rules = read_rules(tree, secret)
    controls: list[AccessControl] = []

    class Control(AccessControl):
        """Obeys the rules of the test where none have been applied."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            controls.append(self)

        def replace(self, found: AccessRules | None, number: int) -> None:
            super().replace(rules if found is None else found, number + 1)

    with mock.patch.object(application, "AccessControl", Control):
        async with running_worker(settings), running_server(settings) as url:
            ruled = Ruled(url, settings, controls[0], secret)
            async with ruled.client("root", roles=["ops"]) as operator:
                await eventually(lambda: _tracked(operator, set(settings.collections)), 20)
            yield ruled


async def _tracked(operator: httpx.AsyncClient, names: set[str]) -> bool:
    answer = await operator.get("/v1/collections")
    return names <= {item["name"] for item in answer.json().get("collections", ())}
