"""Requests of principals at every door, and writes behind the API. All answers are recorded, and none is judged."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
from pymongo.errors import PyMongoError

from eventsync.mongodb.client import Client
from support.chaos.history import Key
from support.chaos.leaks.evidence import Act, Received, canary
from support.chaos.leaks.principals import Ledger, Server
from support.chaos.leaks.scene import COLLECTIONS, HIDDEN, OF_SUBJECT, SHOWN, new_document, routing
from support.clients import BROKEN
from support.waiting import patience

MERGE = "application/merge-patch+json"
PATCH = "application/json-patch+json"
_IDS = {"orders": 10, "notes": 6, "board": 4, "vault": 3}
_TASKS = 8
_PAUSE = 0.03
_BURST, _PAD = 60, 1500
"""Changes of a burst, and characters that each of them writes: sending them costs more than the document."""


class Traffic:
    """Requests of all subjects, at random, until the run ends."""

    def __init__(self, ledger: Ledger, server: Server, client: Client, database: str, seed: int) -> None:
        self.count = 0
        self._ledger = ledger
        self._pick = server
        self._data = client[database]
        self._random = random.Random(f"{seed} traffic")
        self._http = httpx.AsyncClient(timeout=patience(5))
        self._keys: list[tuple[str, str, dict[str, Any]]] = []
        self._tags: list[tuple[Key, str]] = []
        self._positions: list[str] = []
        self._acts: list[tuple[int, Callable[[], Awaitable[object]]]] = [
            (6, self.write_behind),
            (3, self.hide_behind),
            (3, self.edit),
            (2, self.put),
            (1, self.create),
            (1, self.delete),
            (2, self.give_away),
            (1, self.take_possession),
            (2, self.repeat),
            (3, self.attack),
            (4, self.get),
            (2, self.travel),
            (2, self.list),
            (2, self.follow_once),
            (1, self.wander),
        ]

    def only(self, *acts: Callable[[], Awaitable[object]]) -> None:
        """Make these requests alone."""
        self._acts = [(1, act) for act in acts]

    def burst(self) -> None:
        """Make bursts of changes, too."""
        self._acts.append((1, self.burst_behind))

    async def prepare(self) -> None:
        """Write every document once."""
        for collection in COLLECTIONS:
            rows = [
                {"_id": f"{collection[0]}{number}", **new_document(collection, self._random)}
                for number in range(_IDS[collection])
            ]
            await self._data[collection].insert_many(rows)

    async def run(self, stop: asyncio.Event) -> None:
        """Make requests until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_TASKS):
                group.create_task(self._requests(stop))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _requests(self, stop: asyncio.Event) -> None:
        weights = [weight for weight, _ in self._acts]
        while not stop.is_set():
            ((_, act),) = self._random.choices(self._acts, weights)
            with suppress(*BROKEN, PyMongoError):
                await act()
            self.count += 1
            await asyncio.sleep(self._random.uniform(0, 2 * _PAUSE))

    # --- behind the API -------------------------------------------------------------------------------------------

    async def write_behind(self) -> None:
        """Owners, readers and teams change, and documents are made again and removed."""
        collection, id_ = self._any_key()
        fields = new_document(collection, self._random)
        found = self._random.random()
        if found < 0.08:
            await self._data[collection].delete_one({"_id": id_})
        elif found < 0.25:
            await self._data[collection].update_one({"_id": id_}, {"$set": fields}, upsert=True)
        else:
            some = {name: fields[name] for name in self._random.sample(sorted(fields), min(2, len(fields)))}
            await self._data[collection].update_one({"_id": id_}, {"$set": some | {SHOWN[collection]: canary()}})

    async def hide_behind(self) -> None:
        """Only what is hidden changes: what is shown stays as it is, its entity tag included."""
        collection, id_ = self._any_key()
        await self.get((collection, id_))
        await self._data[collection].update_one({"_id": id_}, {"$set": {HIDDEN[collection]: canary()}})
        await self.get((collection, id_))

    async def burst_behind(self) -> None:
        """Change one document so often that who was away gets squashed documents."""
        id_ = f"o{self._random.randrange(_IDS['orders'])}"
        for _ in range(_BURST):
            fields = {"note": canary(), "margin": canary(), "pad": self._random.choice("xyz") * _PAD}
            await self._data["orders"].update_one({"_id": id_}, {"$set": fields})

    def _any_key(self) -> Key:
        collection = self._random.choices(COLLECTIONS, (6, 2, 2, 1))[0]
        return collection, f"{collection[0]}{self._random.randrange(_IDS[collection])}"

    # --- requests -------------------------------------------------------------------------------------------------

    async def ask(
        self, sub: str, method: str, path: str, act: Act = "other", what: str = "", **options: Any
    ) -> Received:
        """Make a request, and record the answer."""
        known = {name: options.pop(name) for name in ("document", "mark", "key", "neutral") if name in options}
        credential = self._ledger.credential(sub)
        server, url = self._pick()
        headers = {"Authorization": f"Bearer {credential.token}"} | options.pop("headers", {})
        if known.get("key"):
            headers["Idempotency-Key"] = known["key"]
        if "body" in options:
            options["content"] = json.dumps(options.pop("body"))
            self._ledger.knows(sub, options["content"])
        began = time.time()
        answer = await self._http.request(method, url + path, headers=headers, **options)
        item = Received(
            "traffic",
            credential.name,
            what or f"{method} {path}",
            f"{answer.headers}\n\n{answer.text}",
            began,
            time.time(),
            answer.status_code,
            act,
            server=server,
            tag=answer.headers.get("ETag", ""),
            **known,
        )
        return self._ledger.record(item)

    def _sub(self) -> str:
        return self._random.choice(list(OF_SUBJECT))

    async def get(self, key: Key | None = None, sub: str | None = None) -> None:
        """Read a document, sometimes by a condition with a tag of somebody."""
        key = key or self._any_key()
        headers = {}
        if self._tags and self._random.random() < 0.2:
            key, headers["If-None-Match"] = self._random.choice(self._tags)
        found = await self.ask(
            sub or self._sub(), "GET", _path(key), "read", "GET document of {id}", document=key, headers=headers
        )
        if found.tag:
            self._tags.append((key, found.tag))

    async def travel(self) -> None:
        """Read a document's past."""
        key, number = self._any_key(), str(self._random.randrange(1, 12))
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - self._random.randrange(1, 8)))
        path, query = self._random.choice(
            [("", {"version": number}), ("", {"at": at}), ("/events", {}), ("/diff", {"from": number})]
        )
        what = f"GET document{path}?{','.join(query)} of {{id}}"
        found = await self.ask(self._sub(), "GET", _path(key) + path, "read", what, document=key, params=query)
        # That there is no such state is no refusal.
        if found.status in {404, 410}:
            self._ledger.received[-1] = replace(found, act="other", document=None)

    async def list(self) -> None:
        """List documents, by filters and orders on what is shown."""
        collection = self._random.choice(COLLECTIONS)
        shown = SHOWN[collection]
        query = self._random.choice(
            [
                {},
                {"sort": f"-{shown}"},
                {"filter": json.dumps({shown: {"$gte": "canary8"}})},
                {"filter": json.dumps({"owner": {"$ne": "x"}}), "limit": "3"},
            ]
        )
        await self.ask(self._sub(), "GET", f"/v1/collections/{collection}/documents", what="GET list", params=query)

    async def follow_once(self) -> None:
        """Take a snapshot, and read the log from a position that somebody else was given."""
        sub = self._sub()
        shape = self._random.choice([*COLLECTIONS, "by_state?state=open", "by_state?state=closed", "orders/o1"])
        found = await self.ask(sub, "GET", "/v1/sync/snapshot", what="GET snapshot", params={"shape": shape})
        if found.status == 200:
            self._positions.append(json.loads(found.content.rpartition("\n\n")[2].splitlines()[0])["position"])
        if self._positions:
            position = self._random.choice(self._positions[-50:])
            await self.ask(
                sub, "GET", "/v1/sync/log", what="GET log", params={"shape": shape, "position": position, "limit": "50"}
            )

    async def wander(self) -> None:
        """Ask at doors that have no documents, or none for users."""
        paths = ("/readyz", "/v1/collections", "/openapi.json", "/v1/collections/nothing/documents", "/v1/nothing")
        inner = ("/metrics", "/v1/sync/segments", "/v1/state-vectors")
        if self._random.random() < 0.5:
            await self.ask(self._sub(), "GET", self._random.choice(paths))
        else:
            await self.ask(self._sub(), "GET", self._random.choice(inner), "attack")

    # --- writes ---------------------------------------------------------------------------------------------------

    async def write(
        self, sub: str, method: str, target: Key, body: Any, act: Act, media: str = "", **known: Any
    ) -> None:
        """Write a document as a subject."""
        headers = {"Content-Type": media} if media else {}
        content = {} if body is None else {"body": body}
        what = f"{method} {known.pop('named', 'document')} of {{id}}"
        await self.ask(sub, method, _path(target), act, what, document=target, headers=headers, **content, **known)

    async def edit(self) -> None:
        """Change a field that no rule reads."""
        collection, id_ = self._any_key()
        mark = canary()
        keyed = {}
        sub = self._sub()
        body = {SHOWN[collection]: mark}
        if self._random.random() < 0.3:
            # The name of an operation is in its events: no secret.
            keyed = {"key": f"key{self._random.randrange(10**9)}"}
            self._keys.append((keyed["key"], f"{collection}/{id_}", body))
        await self.write(sub, "PATCH", (collection, id_), body, "update", MERGE, mark=mark, neutral=True, **keyed)

    async def put(self) -> None:
        """Replace a document as a whole, by what is shown of a new one."""
        collection, id_ = self._any_key()
        sub, mark = self._sub(), canary()
        body = {"owner": sub, SHOWN[collection]: mark}
        body |= routing(self._random) if collection == "orders" else {}
        await self.write(sub, "PUT", (collection, id_), body, "update", mark=mark)

    async def create(self) -> None:
        """Create a document, for oneself or for others."""
        collection, id_ = self._any_key()
        sub, mark = self._sub(), canary()
        body = new_document(collection, self._random, sub if self._random.random() < 0.7 else None)
        body |= {"_id": id_, SHOWN[collection]: mark}
        path, what = f"/v1/collections/{collection}/documents", "POST document of {id}"
        await self.ask(sub, "POST", path, "create", what, document=(collection, id_), mark=mark, body=body)

    async def delete(self) -> None:
        """Delete a document."""
        key = self._any_key()
        await self.write(self._sub(), "DELETE", key, None, "delete")

    async def give_away(self) -> None:
        """Change the owner of a document, as its owner or another."""
        collection, id_ = self._any_key()
        mark = canary()
        body = {"owner": self._sub(), SHOWN[collection]: mark}
        await self.write(self._sub(), "PATCH", (collection, id_), body, "update", MERGE, mark=mark)

    async def take_possession(self, key: Key | None = None, sub: str | None = None) -> None:
        """Make oneself the owner."""
        key, sub, mark = key or self._any_key(), sub or self._sub(), canary()
        body = {"owner": sub, SHOWN[key[0]]: mark}
        await self.write(sub, "PATCH", key, body, "update", MERGE, mark=mark, named="possession")

    async def repeat(self, sub: str | None = None) -> None:
        """Make the request of somebody, with its Idempotency-Key, as oneself."""
        if not self._keys:
            return
        key, name, body = self._random.choice(self._keys[-20:])
        collection, _, id_ = name.partition("/")
        mark = str(body[SHOWN[collection]])
        await self.write(
            sub or self._sub(),
            "PATCH",
            (collection, id_),
            body,
            "update",
            MERGE,
            mark=mark,
            key=key,
            named="repetition",
        )

    async def attack(self) -> None:
        """Ask for what no user may do: read, test, copy, change, filter or sort by what is hidden or fixed."""
        collection = self._random.choice(("orders", "notes", "board"))
        key = collection, f"{collection[0]}{self._random.randrange(_IDS[collection])}"
        hidden, sub = HIDDEN[collection], self._random.choice(("ada", "bob", "cat", "eve"))
        patches = [
            [{"op": "copy", "from": f"/{hidden}", "path": "/copied"}],
            [{"op": "move", "from": f"/{hidden}", "path": "/moved"}],
            [{"op": "test", "path": f"/{hidden}", "value": 0}, {"op": "add", "path": "/n", "value": 1}],
            [{"op": "replace", "path": f"/{hidden}", "value": canary()}],
            [{"op": "add", "path": f"/{hidden}/x", "value": 1}],
        ]
        if collection == "orders":
            patches += [[{"op": "copy", "from": "/audit/a/who", "path": "/copied"}]]
            patches += [[{"op": "replace", "path": "/made", "value": -1}], [{"op": "remove", "path": "/audit"}]]
        queries = [{"sort": hidden}, {"filter": json.dumps({hidden: {"$gte": "canary8"}})}]
        if self._random.random() < 0.7:
            patch = self._random.choice(patches)
            await self.write(sub, "PATCH", key, patch, "attack", PATCH, named="attack")
        else:
            path, query = f"/v1/collections/{collection}/documents", self._random.choice(queries)
            await self.ask(sub, "GET", path, "attack", "GET list by hidden fields", params=query)


def _path(key: Key) -> str:
    return f"/v1/collections/{key[0]}/documents/{key[1]}"
