"""Requests of principals at every door, and writes behind the API. All answers are recorded, and none is judged."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
from pymongo.errors import PyMongoError

from eventsync.mongodb.client import Client
from support.chaos.history import Key
from support.chaos.leaks.evidence import Act, Credential, Received, Write, canary
from support.chaos.leaks.principals import Ledger, Server
from support.chaos.leaks.scene import COLLECTIONS, HIDDEN, OF_SUBJECT, SHOWN, collection_of, new_document, routing
from support.clients import bearing_a_lost_connection
from support.waiting import patience

MERGE = "application/merge-patch+json"
PATCH = "application/json-patch+json"
_IDS = {"orders": 10, "notes": 6, "board": 4, "vault": 3}
_TASKS = 8
_PAUSE = 0.03
_BURST, _PAD = 60, 1500
"""Changes of a burst, and characters that each of them writes: sending them costs more than the document."""

_USERS = ("ada", "bob", "cat", "eve", "key:robot")
"""Subjects who may never do everything."""

_HIDDEN_NAMES = frozenset({"margin", "lines", "audit", "body", "secret"})

_BY_COOKIE = 0.15
"""Share of the requests that are authenticated by a cookie."""


class Traffic:
    """Requests of all subjects, at random, until the run ends."""

    def __init__(self, ledger: Ledger, server: Server, client: Client, database: str, seed: int) -> None:
        self.count = 0
        self._ledger = ledger
        self._pick = server
        self._data = client[database]
        self._random = random.Random(f"{seed} traffic")
        self._http = httpx.AsyncClient(timeout=patience(5))
        self._keys: list[tuple[str, Key, dict[str, Any]]] = []
        self._tags: list[tuple[Key, str]] = []
        self._positions: list[str] = []
        self.bursting = asyncio.Lock()
        """Held during a burst: there is one at a time."""
        self._stop = asyncio.Event()
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
            (2, self.batch),
            (2, self.transact),
            (3, self.attack),
            (4, self.get),
            (2, self.travel),
            (2, self.list),
            (2, self.follow_once),
            (1, self.wander),
            (1, self.pretend),
        ]

    def only(self, *acts: Callable[[], Awaitable[object]]) -> None:
        """Make these requests alone."""
        self._acts = [(1, act) for act in acts]

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
        self._stop = stop
        async with asyncio.TaskGroup() as group:
            for _ in range(_TASKS):
                group.create_task(self._requests(stop))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _requests(self, stop: asyncio.Event) -> None:
        weights = [weight for weight, _ in self._acts]
        while not stop.is_set():
            ((_, act),) = self._random.choices(self._acts, weights)
            with bearing_a_lost_connection(), suppress(PyMongoError):
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

    async def burst_behind(self, key: Key) -> None:
        """Change one document so often that who was away gets squashed documents."""
        collection, id_ = key
        async with self.bursting:
            for _ in range(_BURST):
                if self._stop.is_set():
                    return
                fields = {HIDDEN[collection]: canary(), SHOWN[collection]: canary() + self._random.choice("xyz") * _PAD}
                await self._data[collection].update_one({"_id": id_}, {"$set": fields})

    def _any_key(self) -> Key:
        return self._key_of(self._random.choices(COLLECTIONS, (6, 2, 2, 1))[0])

    def _key_of(self, collection: str) -> Key:
        return collection, f"{collection[0]}{self._random.randrange(_IDS[collection])}"

    # --- requests -------------------------------------------------------------------------------------------------

    async def ask(
        self, sub: str, method: str, path: str, act: Act = "other", what: str = "", **options: Any
    ) -> Received:
        """Make a request, and record the answer. It asks for `writes`, with `proof`."""
        known = {name: options.pop(name) for name in ("document", "collection", "key") if name in options}
        writes: Sequence[Write] = options.pop("writes", ())
        credential = self._ledger.credential(sub)
        server, url = self._pick()
        is_cookie = self._random.random() < _BY_COOKIE
        proof = _cookie(credential) if is_cookie else {"Authorization": f"Bearer {credential.token}"}
        headers: dict[str, str] = options.pop("proof", proof) | options.pop("headers", {})
        if known.get("key"):
            headers["Idempotency-Key"] = known["key"]
        if "body" in options:
            options["content"] = json.dumps(options.pop("body"))
            headers.setdefault("Content-Type", "application/json")
            self._ledger.wrote(sub, options["content"])
        began = time.time()
        if known.get("key"):
            self._ledger.used[sub, known["key"]].append(began)
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
            writes=_answered(answer, writes),
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
        # One by a field that is hidden is rightly refused.
        known: dict[str, Any] = {} if shown in str(query) else {"collection": collection}
        await self.ask(
            self._sub(), "GET", f"/v1/collections/{collection}/documents", what="GET list", params=query, **known
        )

    async def follow_once(self) -> None:
        """Take a snapshot, and read the log from a position that somebody else was given."""
        sub = self._sub()
        parts = ("by_state?state=open", "by_state?state=closed", "mine?", "orders/o1")
        shape = self._random.choice([*COLLECTIONS, *parts])
        known: dict[str, Any] = {"collection": collection_of(shape)}
        found = await self.ask(sub, "GET", "/v1/sync/snapshot", what="GET snapshot", params={"shape": shape}, **known)
        if found.status == 200:
            self._positions.append(json.loads(found.content.rpartition("\n\n")[2].splitlines()[0])["position"])
        if self._positions:
            query = {"shape": shape, "position": self._random.choice(self._positions[-50:]), "limit": "50"}
            await self.ask(sub, "GET", "/v1/sync/log", what="GET log", params=query, **known)

    async def pretend(self) -> None:
        """Ask for the shape of somebody else, and with a cookie that a page of another origin makes a browser send."""
        sub, other = self._random.sample(_USERS, 2)
        if self._random.random() < 0.5:
            shape = f"mine?owner={other}"
            await self.ask(sub, "GET", "/v1/sync/snapshot", "attack", "GET snapshot of others", params={"shape": shape})
        else:
            proof = _cookie(self._ledger.credential(sub), self._random.choice(("cross-site", "same-site", "none")))
            await self.ask(sub, "GET", _path(self._any_key()), "attack", "GET from elsewhere of {id}", proof=proof)

    async def wander(self) -> None:
        """Ask at doors that have no documents, or none for users."""
        paths = ("/readyz", "/v1/collections", "/openapi.json", "/v1/collections/nothing/documents", "/v1/nothing")
        inner = ("/metrics", "/v1/sync/segments", "/v1/state-vectors")
        if self._random.random() < 0.5:
            await self.ask(self._sub(), "GET", self._random.choice(paths))
        else:
            await self.ask(self._sub(), "GET", self._random.choice(inner), "attack")

    # --- writes ---------------------------------------------------------------------------------------------------

    async def write(self, sub: str, method: str, write: Write, body: Any, media: str = "", **known: Any) -> Received:
        """Write a document as a subject."""
        headers = {"Content-Type": media} if media else {}
        content = {} if body is None else {"body": body}
        what = f"{method} {known.pop('named', 'document')} of {{id}}"
        path = _path(write.document)
        return await self.ask(sub, method, path, what=what, writes=[write], headers=headers, **content, **known)

    async def edit(self) -> None:
        """Change a field that no rule reads."""
        body, write = self._edit(self._any_key())
        keyed = {}
        if self._random.random() < 0.3:
            # The name of an operation is in its events: no secret.
            keyed = {"key": f"key{self._random.randrange(10**9)}"}
            self._keys.append((keyed["key"], write.document, body))
        await self.write(self._sub(), "PATCH", write, body, MERGE, **keyed)

    def _edit(self, key: Key) -> tuple[dict[str, Any], Write]:
        mark = canary()
        return {SHOWN[key[0]]: mark}, Write(key, "update", 0, mark, neutral=True)

    async def put(self) -> None:
        """Replace a document as a whole, by what is shown of a new one."""
        key, sub, mark = self._any_key(), self._sub(), canary()
        body = {"owner": sub, SHOWN[key[0]]: mark}
        body |= routing(self._random) if key[0] == "orders" else {}
        await self.write(sub, "PUT", Write(key, "update", 0, mark), body)

    async def create(self) -> None:
        """Create a document, for oneself or for others."""
        (collection, id_), sub, mark = self._any_key(), self._sub(), canary()
        body = new_document(collection, self._random, sub if self._random.random() < 0.7 else None)
        body |= {"_id": id_, SHOWN[collection]: mark}
        if self._random.random() < 0.5:
            # Nobody may create what is hidden from him.
            body = {name: value for name, value in body.items() if name not in _HIDDEN_NAMES}
        path, what = f"/v1/collections/{collection}/documents", "POST document of {id}"
        await self.ask(sub, "POST", path, what=what, writes=[Write((collection, id_), "create", 0, mark)], body=body)

    async def delete(self) -> None:
        """Delete a document."""
        await self.write(self._sub(), "DELETE", Write(self._any_key(), "delete", 0), None)

    async def give_away(self) -> None:
        """Change the owner of a document, as its owner or another."""
        key, mark = self._any_key(), canary()
        body = {"owner": self._sub(), SHOWN[key[0]]: mark}
        await self.write(self._sub(), "PATCH", Write(key, "update", 0, mark), body, MERGE)

    async def take_possession(self, key: Key | None = None, sub: str | None = None) -> None:
        """Make oneself the owner."""
        key, sub, mark = key or self._any_key(), sub or self._sub(), canary()
        body = {"owner": sub, SHOWN[key[0]]: mark}
        await self.write(sub, "PATCH", Write(key, "update", 0, mark), body, MERGE, named="possession")

    async def repeat(self, sub: str | None = None) -> None:
        """Make the request of somebody, with its Idempotency-Key, as oneself."""
        if self._keys:
            name, key, body = self._random.choice(self._keys[-20:])
            write = Write(key, "update", 0, str(body[SHOWN[key[0]]]), neutral=True)
            await self.write(sub or self._sub(), "PATCH", write, body, MERGE, key=name, named="repetition")

    # --- several writes -------------------------------------------------------------------------------------------

    async def batch(self) -> None:
        """Make several independent writes."""
        collection = self._random.choice(("orders", "orders", "notes", "board"))
        path, sub = f"/v1/collections/{collection}/documents:batch", self._sub()
        items, writes = self._items(sub, [self._key_of(collection) for _ in range(self._random.randrange(1, 5))])
        headers = {"Prefer": "return=representation"} if self._random.random() < 0.5 else {}
        body = {"operations": items}
        await self.ask(sub, "POST", path, what="POST batch", writes=writes, body=body, headers=headers)

    async def transact(self) -> None:
        """Make several writes, all or nothing."""
        keys, sub = list({self._any_key() for _ in range(self._random.randrange(1, 4))}), self._sub()
        items, writes = self._items(sub, keys)
        await self.ask(
            sub, "POST", "/v1/transactions", what="POST transaction", writes=writes, body={"operations": items}
        )

    def _items(self, sub: str, keys: Iterable[Key]) -> tuple[Sequence[dict[str, Any]], Sequence[Write]]:
        """Return operations on documents, most of them edits, and what they write."""
        items, writes = [], []
        for key in keys:
            patch, write = self._edit(key)
            item: dict[str, Any] = {"method": "PATCH", "collection": key[0], "id": key[1], "patch": patch}
            if (kind := self._random.random()) < 0.1:
                item["patch"], write = patch | {"owner": sub}, replace(write, neutral=False)
            elif kind < 0.2:
                body = patch | {"owner": sub} | (routing(self._random) if key[0] == "orders" else {})
                item = item | {"method": "PUT", "doc": body}
                del item["patch"]
                write = replace(write, neutral=False)
            elif kind < 0.25:
                item, write = {"method": "DELETE", "collection": key[0], "id": key[1]}, Write(key, "delete", 0)
            items.append(item)
            writes.append(write)
        return items, writes

    async def attack(self) -> None:
        """Ask for what no user may do: read, test, copy, change, filter or sort by what is hidden or fixed."""
        collection = self._random.choice(("orders", "notes", "board"))
        key = self._key_of(collection)
        hidden, sub = HIDDEN[collection], self._random.choice(_USERS)
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
            headers = {"Content-Type": PATCH}
            await self.ask(sub, "PATCH", _path(key), "attack", "PATCH attack of {id}", headers=headers, body=patch)
        else:
            path, query = f"/v1/collections/{collection}/documents", self._random.choice(queries)
            await self.ask(sub, "GET", path, "attack", "GET list by hidden fields", params=query)


def _path(key: Key) -> str:
    return f"/v1/collections/{key[0]}/documents/{key[1]}"


def _cookie(credential: Credential, site: str = "same-origin") -> dict[str, str]:
    """Return the headers of a request that a page of such a site has made a browser send."""
    return {"Cookie": f"eventsync={credential.token}", "Sec-Fetch-Site": site}


def _answered(answer: httpx.Response, writes: Sequence[Write]) -> tuple[Write, ...]:
    """Return the writes of a request with what was answered of each."""
    if answer.status_code >= 400 or not writes:
        return tuple(replace(write, status=answer.status_code) for write in writes)
    tree = answer.json()
    # Of a batch, each result has a status of its own.
    return tuple(
        replace(
            write,
            status=result.get("status", answer.status_code),
            version=result.get("version", 0),
            repeated=result.get("repeated", False),
        )
        for write, result in zip(writes, tree.get("results", [tree]), strict=True)
    )
