"""Subjects with tokens, and the record of all that they are sent."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from support.chaos.leaks.evidence import CANARY, LEEWAY, Credential, LeakEvidence, Received
from support.chaos.leaks.scene import OF_SUBJECT, SIGHTS
from support.identity import token


class Ledger:
    """The record of a run: the messages that each client was given, and those that it has got. It judges nothing."""

    def __init__(self, seed: int, lifetime: tuple[float, float] = (600.0, 900.0)) -> None:
        """`lifetime`: the least and the most seconds until the end of a token; negative ones are in its leeway."""
        self.credentials: dict[str, Credential] = {}
        self.received: list[Received] = []
        self.revoked: dict[str, float] = {}
        self.known: dict[str, set[str]] = defaultdict(set)
        self.lifetime = lifetime
        self.doors: set[str] = set()
        self._random = random.Random(f"{seed} tokens")
        self._present: dict[str, Credential] = {}
        self._sights = {sub: names[0] for sub, names in OF_SUBJECT.items()}

    def credential(self, sub: str, *, left: float = 0.0) -> Credential:
        """Return the present token of a subject: a new one if it was revoked, or ends in less than `left` seconds."""
        found = self._present.get(sub)
        if found is None or found.expires + LEEWAY < time.time() + left or found.name in self.revoked:
            found = self._present[sub] = self.issue(sub)
        return found

    def issue(self, sub: str) -> Credential:
        """Return a new token with the present claims of a subject. It may have ended, but for the leeway."""
        now, sight = time.time(), self._sights[sub]
        name = f"{sub}-{len(self.credentials) + 1}"
        expires = int(now + self._random.uniform(*self.lifetime))
        text = token(now=now, **(dict(SIGHTS[sight]) | {"jti": name, "exp": expires, "iat": int(now)}))
        found = self.credentials[name] = Credential(name, sub, sight, expires, text)
        return found

    def change_claims(self, sub: str, sight: str) -> None:
        """Have new tokens of a subject carry these claims."""
        self._sights[sub] = sight
        self._present.pop(sub, None)

    def sight(self, sub: str) -> str:
        """Return the name of the present claims of a subject."""
        return self._sights[sub]

    def record(self, item: Received) -> Received:
        """Record what came."""
        self.received.append(item)
        self.doors.add(item.what.partition(" of ")[0])
        return item

    def knows(self, sub: str, sent: str) -> None:
        """Note that a subject has itself sent this text."""
        self.known[sub].update(CANARY.findall(sent))

    def evidence(self, template: LeakEvidence) -> LeakEvidence:
        """Return the evidence with all that was recorded."""
        known = {sub: frozenset(found) for sub, found in self.known.items()}
        return replace(
            template,
            credentials=dict(self.credentials),
            received=tuple(self.received),
            revoked=dict(self.revoked),
            known=known,
        )


Server = Callable[[], tuple[str, str]]
"""Returns the name and the URL of a server to connect to."""
