"""Evidence of a run under rules: every byte that principals got, and what each was allowed to see."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from support.chaos.history import Key

CANARY = re.compile(r"canary[0-9a-f]{20}")
LEEWAY = 10.0
"""Seconds after the end of a credential in which it is still accepted, as is documented."""

Act = Literal["push", "read", "create", "update", "delete", "attack", "other"]
"""An attack is a request that no user may make: one that succeeds is a violation."""


def canary() -> str:
    """Return a value that occurs nowhere else: whoever has it has seen the field that it was written to."""
    return f"canary{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class Credential:
    """A token of a subject. `sight` names its claims: two with the same one are allowed the same."""

    name: str
    sub: str
    sight: str
    expires: float
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """An answer or a pushed message, headers included, with the time it was asked for (or came) and the time it came.

    `document`: the only document that it is about. `collection`: what was followed or listed. `mark`: a canary that
    only the state after this write has; `neutral`: the write changes nothing that rules read. `key`: its
    Idempotency-Key.
    """

    client: str
    credential: str
    what: str
    content: str
    began: float
    at: float
    status: int = 200
    act: Act = "read"
    document: Key | None = None
    collection: str = ""
    server: str = ""
    mark: str = ""
    key: str = ""
    neutral: bool = False
    tag: str = ""

    @property
    def canaries(self) -> frozenset[str]:
        return frozenset(CANARY.findall(self.content))

    def __str__(self) -> str:
        return f"{self.client} by {self.credential}, {self.began:.3f} to {self.at:.3f}: {self.what} → {self.status}"


@dataclass(frozen=True, slots=True)
class DocumentState:
    """A state of a document since `at`, as the oplog has it; None after its deletion.

    `hidden`: what the rules hide of it and keep as it was, by hand.
    """

    number: int
    key: Key
    at: float
    document: Mapping[str, Any] | None
    hidden: str = ""


@dataclass(frozen=True, slots=True)
class Sight:
    """The documents that MongoDB finds for some claims under some rules: canaries, and states by number.

    `may`: the states for which the rule of a write holds. `collections`: those of which there is anything to read.
    `unlimited`: nothing is hidden from it or fixed for it.
    """

    canaries: frozenset[str] = frozenset()
    states: frozenset[int] = frozenset()
    may: Mapping[str, frozenset[int]] = field(default_factory=dict)
    collections: frozenset[str] = frozenset()
    unlimited: bool = False


@dataclass(frozen=True, slots=True)
class AppliedRules:
    """Rules that were put in force between `began` and `done`, until the next ones are."""

    variant: int
    began: float
    done: float


@dataclass(frozen=True, slots=True)
class Jump:
    """A time in which the clock of a server was `seconds` ahead."""

    server: str
    began: float
    ended: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Held:
    """The documents that a client held in the end, and those that MongoDB finds for it then."""

    client: str
    held: Mapping[str, Any]
    right: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LeakEvidence:
    """All that the leak checker judges by.

    `sights`: by variant of the rules and name of the claims. `revoked`: credentials, with the time at which that was
    acknowledged. `known`: what each subject has written itself. `grace`: seconds in which servers learn of a change.
    """

    credentials: Mapping[str, Credential]
    received: Sequence[Received]
    states: Sequence[DocumentState]
    sights: Mapping[tuple[int, str], Sight]
    rules: Sequence[AppliedRules]
    revoked: Mapping[str, float] = field(default_factory=dict)
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)
    jumps: Sequence[Jump] = ()
    held: Sequence[Held] = ()
    grace: float = 2.0
