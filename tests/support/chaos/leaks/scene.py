"""The scene of a run under rules: subjects, documents, and rules, each twice.

Once as the product takes them, and once in MongoDB's own words, written by hand: a filter and a projection.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.chaos.leaks.evidence import canary

Claims = Mapping[str, Any]
Document = dict[str, Any]

SIGHTS: Mapping[str, Claims] = {
    "ada": {"sub": "ada", "groups": ["blue"]},
    "bob": {"sub": "bob", "groups": ["blue", "red"]},
    "cat": {"sub": "cat", "groups": "red"},
    "eve": {"sub": "eve"},
    "dan of blue": {"sub": "dan", "groups": ["blue"]},
    "dan of red": {"sub": "dan", "groups": ["red"]},
    "dan of ops": {"sub": "dan", "groups": [], "roles": ["ops"]},
    "root": {"sub": "root", "roles": ["ops"]},
    "robot": {"sub": "key:robot", "groups": ["green"]},
    "clerk": {"sub": "key:clerk", "roles": ["ops"]},
}
"""The claims that credentials have, by name. Eve lacks one: a rule that reads it is false for her."""

KEYS: Mapping[str, frozenset[str]] = {"key:robot": frozenset(), "key:clerk": frozenset({"operator"})}
"""The subjects that have a service key, with the roles that it is given directly."""

OF_SUBJECT: Mapping[str, tuple[str, ...]] = {
    sub: tuple(name for name, claims in SIGHTS.items() if claims["sub"] == sub)
    for sub in dict.fromkeys(str(claims["sub"]) for claims in SIGHTS.values())
}
COLLECTIONS = ("orders", "notes", "board", "vault")
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "by_state": {"collection": "orders", "where": {"state": "$state"}, "parameters": {"state": {"type": "text"}}},
    "mine": {
        "collection": "orders",
        "where": {"owner": "$owner"},
        "parameters": {"owner": {"type": "text", "from": "claims.sub"}},
    },
}
"""Declared shapes, as the rules file has them."""

VARIANTS = 4
"""0: the rules as they are. 1: fewer documents. 2: more is hidden. 3: `orders` is taken away, and `vault` is opened."""

_EVERYTHING = {"read": True, "create": True, "update": True, "delete": True}


# --- as the product takes them ------------------------------------------------------------------------------------


def probe_claims(number: int) -> Claims:
    """Return claims that these rules and later ones make an operator's, so that a server tells which it obeys."""
    return {"sub": "probe", "probe": number}


def rules_tree(variant: int, number: int, secret: Path) -> dict[str, Any]:
    """Return the tree of a rules file. `number` counts those that were applied."""
    own = {"owner": "$claims.sub"}
    readers = [own, {"readers": "$claims.sub"}, {"team": {"$in": "$claims.groups"}, "state": {"$ne": "closed"}}]
    orders: dict[str, Any] = {
        "read": own if variant == 1 else {"$or": readers},
        "create": own,
        "update": own | {"state": {"$ne": "closed"}},
        "delete": own,
        "hide": ["margin", "lines.cost", "audit.*.who", *(["note"] if variant == 2 else [])],
        "fixed": ["made"],
    }
    notes = {"read": own, "create": own, "update": own, "delete": own}
    tables: dict[str, Any] = {
        "orders": {"user": orders},
        "notes": {"user": notes | {"fields": ["owner", "n"] if variant == 2 else ["title", "owner", "n"]}},
        "board": {"user": {"read": True, "update": own, "hide": ["secret"]}},
        "*": {"operator": _EVERYTHING},
    }
    if variant == 3:
        del tables["orders"]
        tables["vault"] = {"user": {"read": True}}
    return {
        "auth": {"issuers": [{"iss": "backend", "secret_file": str(secret), "algorithms": ["HS256"]}]},
        "roles": {"operator": {"$or": [{"roles": "ops"}, {"probe": {"$lte": number}}]}, "user": True},
        "collections": tables,
        "shapes": {name: dict(shape) for name, shape in SHAPES.items()},
    }


def filter_of(shape: str, sub: str) -> Document:
    """Return the filter of a shape, as a client of this subject names it."""
    name, _, parameters = shape.partition("?")
    if name == "mine":
        return {"owner": sub}
    if name == "by_state":
        return {"state": parameters.partition("=")[2]}
    return {"_id": name.partition("/")[2]} if "/" in name else {}


def collection_of(shape: str) -> str:
    """Return the collection that a shape is a part of."""
    name = shape.partition("?")[0].partition("/")[0]
    return str(SHAPES[name]["collection"]) if name in SHAPES else name


# --- as MongoDB finds them ----------------------------------------------------------------------------------------


def is_unlimited(claims: Claims) -> bool:
    """Return True for claims that may do everything."""
    return "ops" in claims.get("roles", ())


def readable(variant: int, collection: str, claims: Claims) -> tuple[Document, Document] | None:
    """Return the filter and the projection of what these claims may read; None for nothing."""
    if is_unlimited(claims):
        return {}, {}
    if collection == "orders":
        where = _orders(variant, claims)
        hidden = {"margin": 0, "lines.cost": 0, "audit.a.who": 0, "audit.b.who": 0}
        return None if where is None else (where, hidden | ({"note": 0} if variant == 2 else {}))
    if collection == "notes":
        shown = {"owner": 1, "n": 1} if variant == 2 else {"title": 1, "owner": 1, "n": 1}
        return {"owner": claims["sub"]}, shown
    if collection == "board":
        return {}, {"secret": 0}
    return ({}, {}) if variant == 3 else None


def _orders(variant: int, claims: Claims) -> Document | None:
    if variant == 3:
        return None
    if variant == 1:
        return {"owner": claims["sub"]}
    if "groups" not in claims:
        return None
    groups = claims["groups"] if isinstance(claims["groups"], list) else [claims["groups"]]
    team = {"team": {"$in": groups}, "state": {"$ne": "closed"}}
    return {"$or": [{"owner": claims["sub"]}, {"readers": claims["sub"]}, team]}


def writable(variant: int, collection: str, act: str, claims: Claims) -> Document | None:
    """Return the filter of the states that these claims may create, delete, or update before and after."""
    if is_unlimited(claims):
        return {}
    own = {"owner": claims["sub"]}
    if collection == "orders" and variant != 3:
        read = _orders(variant, claims)
        if act != "update":
            return own
        return None if read is None else own | {"state": {"$ne": "closed"}}
    if collection == "notes" or (collection == "board" and act == "update"):
        return own
    return None


def hidden(variant: int, collection: str, claims: Claims, document: Mapping[str, Any]) -> str:
    """Return what these claims may not see of a document, as text; nothing if the document has none of it."""
    if is_unlimited(claims):
        return ""
    found: list[Any] = []
    if collection == "orders":
        lines, audit = document.get("lines", ()), document.get("audit", {})
        found = [document.get("margin"), *(line.get("cost") for line in lines)]
        found += [(name, entry["who"]) for name, entry in audit.items() if "who" in entry]
    elif (name := {"notes": "body", "board": "secret"}.get(collection)) is not None:
        found = [document.get(name)]
    if collection in closed(variant, claims):
        found.append(document.get(SHOWN[collection]))
    return str([item for item in found if item is not None] or "")


def fixed(collection: str, claims: Claims, document: Mapping[str, Any]) -> str:
    """Return what these claims may not change in a document, as text."""
    return "" if collection != "orders" or is_unlimited(claims) else str(document.get("made"))


def closed(variant: int, claims: Claims) -> frozenset[str]:
    """Return the collections whose `SHOWN` field is hidden from these claims."""
    return frozenset({"orders", "notes"} if variant == 2 and not is_unlimited(claims) else ())


# --- documents ----------------------------------------------------------------------------------------------------

_OWNERS = ("ada", "ada", "bob", "cat", "dan", "eve", "key:robot")
_TEAMS = ("blue", "red", "green")
_PAD = "p" * 12_000
"""So much that a snapshot of the orders costs more than one of them, squashed."""


def new_document(collection: str, choose: random.Random, owner: str | None = None) -> Document:
    """Return the fields of a new document: a canary in each field that a rule shows or hides."""
    owner = owner or choose.choice(_OWNERS)
    if collection == "orders":
        lines = [{"sku": canary(), "cost": canary()} for _ in range(choose.randrange(3))]
        audit = {name: {"who": canary(), "n": choose.randrange(9)} for name in ("a", "b")}
        hidden = {"margin": canary(), "lines": lines, "audit": audit, "made": choose.randrange(10**6)}
        return {"owner": owner, "note": canary(), "pad": _PAD, **routing(choose), **hidden}
    if collection == "notes":
        return {"owner": owner, "title": canary(), "body": canary(), "n": choose.randrange(9)}
    if collection == "board":
        return {"owner": owner, "text": canary(), "secret": canary()}
    return {"text": canary()}


def routing(choose: random.Random) -> Document:
    """Return the fields beside the owner that decide who reads an order."""
    readers = choose.sample(("ada", "bob", "cat", "dan", "eve", "key:robot"), choose.randrange(3))
    state = choose.choice(("open", "open", "paid", "closed"))
    return {"readers": readers, "team": choose.choice(_TEAMS), "state": state}


SHOWN = {"orders": "note", "notes": "title", "board": "text", "vault": "text"}
"""A field of each collection that is shown to its readers, and that no rule reads."""

HIDDEN = {"orders": "margin", "notes": "body", "board": "secret", "vault": "text"}
"""A field that is hidden from users."""
