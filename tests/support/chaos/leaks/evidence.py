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

Act = Literal["push", "read", "attack", "other"]
"""An attack is a request that no user may make: one that succeeds is a violation."""

WriteAct = Literal["create", "update", "delete"]


def canary() -> str:
    """Return a value that occurs nowhere else: whoever has it has seen the field that it was written to."""
    return f"canary{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential of a subject. `sight` names its claims: two with the same one are allowed the same.

    `revocations` are the names by which it is revoked. What revokes a subject is for what was `issued` until then.
    """

    name: str
    sub: str
    sight: str
    expires: float
    token: str = field(default="", repr=False)
    issued: float = 0.0
    revocations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Write:
    """One of the writes that a request has asked for, with its own status, and the version that was answered.

    `mark`: a canary that only the state after this write has. `neutral`: it changes a shown field that no rule reads.
    `repeated`: the answer is that to an earlier request with its Idempotency-Key.
    """

    document: Key
    act: WriteAct
    status: int
    mark: str = ""
    neutral: bool = False
    version: int = 0
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """An answer or a pushed message, headers included.

    What it says was decided between `began`, when a request was sent, and `at`, when the answer had come. It was sent
    at `since` or later. Of a message nobody has asked for, so it `began` then, too.

    `document`: the only document that it is about. `collection`: what was followed or listed. `key`: its
    Idempotency-Key. `other`: another credential that may be the one that was refused.
    """

    client: str
    credential: str
    what: str
    content: str
    began: float
    at: float
    status: int = 200
    act: Act = "read"
    since: float = 0.0
    document: Key | None = None
    collection: str = ""
    server: str = ""
    key: str = ""
    tag: str = ""
    other: str = ""
    writes: tuple[Write, ...] = ()

    @property
    def canaries(self) -> frozenset[str]:
        return frozenset(CANARY.findall(self.content))

    @property
    def sent(self) -> float:
        """The earliest time at which it can have been sent."""
        return max(self.began, self.since)

    def __str__(self) -> str:
        return f"{self.client} by {self.credential}, {self.began:.3f} to {self.at:.3f}: {self.what} → {self.status}"


@dataclass(frozen=True, slots=True)
class DocumentState:
    """A state of a document since `at`, as the oplog has it; None after its deletion.

    `time`: the cluster time of the commit. `version` and `by`: those of the API write that has made the state.
    """

    number: int
    key: Key
    at: float
    document: Mapping[str, Any] | None
    time: int = 0
    version: int = 0
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """The documents that MongoDB finds for some claims under some rules: canaries, and states by number.

    `may`: the states for which the rule of a write holds. `hidden` and `fixed`: what is so of each state, as a text.
    `closed`: the collections of which a `neutral` write changes what is hidden. `collections`: those of which there is
    anything to read, and `whole` those of which all is: with the history of what is deleted. `unlimited`: it may do
    everything.
    """

    canaries: frozenset[str] = frozenset()
    states: frozenset[int] = frozenset()
    may: Mapping[str, frozenset[int]] = field(default_factory=dict)
    hidden: Mapping[int, str] = field(default_factory=dict)
    fixed: Mapping[int, str] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()
    collections: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    unlimited: bool = False


@dataclass(frozen=True, slots=True)
class AppliedRules:
    """Rules that were in force from some time after `began`, until the next ones were."""

    variant: int
    began: float


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revocation that was asked for at `began`, and acknowledged at `done`. `at` is its time by MongoDB's clock."""

    name: str
    began: float
    done: float
    at: float


def revokes(revocation: Revocation, credential: Credential) -> bool:
    """Return True if a revocation is for a credential."""
    if not revocation.name.startswith("sub:"):
        return revocation.name in credential.revocations
    # The clock of an issuer may be ahead, but service keys are dated by MongoDB.
    leeway = 0.0 if credential.revocations[0].startswith("key:") else LEEWAY
    return revocation.name in credential.revocations and credential.issued <= revocation.at + leeway


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
class Known:
    """Certain knowledge, each piece since a time that is the first of a pair; both ascend.

    `committed`: cluster times up to which all commits were seen by whoever read. `obeyed`: for each server, the number
    of the rules that it obeyed, or later ones. `revoked`: since when a server refused a credential that was revoked.
    """

    committed: Sequence[tuple[float, int]] = ()
    obeyed: Mapping[str, Sequence[tuple[float, int]]] = field(default_factory=dict)
    revoked: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeakEvidence:
    """All that the leak checker judges by.

    `sights`: by variant of the rules and name of the claims. `written`: what each subject has written itself. `used`:
    when each subject has begun a request with each Idempotency-Key.
    """

    credentials: Mapping[str, Credential]
    received: Sequence[Received]
    states: Sequence[DocumentState]
    sights: Mapping[tuple[int, str], Sight]
    rules: Sequence[AppliedRules]
    known: Known = Known()
    revocations: Sequence[Revocation] = ()
    written: Mapping[str, frozenset[str]] = field(default_factory=dict)
    used: Mapping[tuple[str, str], Sequence[float]] = field(default_factory=dict)
    jumps: Sequence[Jump] = ()
    held: Sequence[Held] = ()
