"""Subjects with credentials, and the record of all that they are sent."""

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
        self.written: dict[str, set[str]] = defaultdict(set)
        self.used: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.lifetime = lifetime
        self.doors: set[str] = set()
        """The kinds of answers and messages that had content, by the first words of what they are."""
        self._random = random.Random(f"{seed} tokens")
        self._present: dict[str, Credential] = {}
        self._withdrawn: dict[str, float] = {}
        self._sights = {sub: names[0] for sub, names in OF_SUBJECT.items()}

    def credential(self, sub: str, *, left: float = 0.0) -> Credential:
        """Return the present credential of a subject: a new token if it was withdrawn, or ends within `left` seconds.

        A service key is given to it.
        """
        found = self._present.get(sub)
        now = time.time()
        is_withdrawn = found is not None and found.issued <= self._withdrawn.get(sub, 0.0) < now
        if found is None or is_withdrawn or found.expires + LEEWAY < now + left:
            found = self._present[sub] = self.issue(sub)
        return found

    def issue(self, sub: str) -> Credential:
        """Return a new token with the present claims of a subject. It may have ended, but for the leeway."""
        now, sight = time.time(), self._sights[sub]
        name = f"{sub}-{len(self.credentials) + 1}"
        expires = int(now + self._random.uniform(*self.lifetime))
        # Not in whole seconds: all that a subject was issued in the same second would be revoked with it.
        issued = round(now, 6)
        text = token(now=now, **(dict(SIGHTS[sight]) | {"jti": name, "exp": expires, "iat": issued}))
        return self._known(Credential(name, sub, sight, expires, text, issued, (f"jti:{name}", f"sub:{sub}")))

    def give(self, credential: Credential) -> None:
        """Make this the present credential of its subject."""
        self._present[credential.sub] = self._known(credential)

    def _known(self, credential: Credential) -> Credential:
        self.credentials[credential.name] = credential
        return credential

    def withdraw(self, sub: str) -> None:
        """Have a subject get a new token."""
        self._present.pop(sub, None)

    def withdraw_until(self, sub: str, issued: float) -> None:
        """Have a subject get a new token, once that is good, in place of one that was issued until then."""
        self._withdrawn[sub] = issued

    def change_claims(self, sub: str, sight: str) -> None:
        """Have new tokens of a subject carry these claims."""
        if self._sights[sub] != sight:
            self._sights[sub] = sight
            self.withdraw(sub)

    def sight(self, sub: str) -> str:
        """Return the name of the present claims of a subject."""
        return self._sights[sub]

    def record(self, item: Received) -> Received:
        """Record what came."""
        self.received.append(item)
        if CANARY.search(item.content):
            self.doors.add(item.what.partition(" of ")[0])
        return item

    def wrote(self, sub: str, sent: str) -> None:
        """Note that a subject has itself sent this text."""
        self.written[sub].update(CANARY.findall(sent))

    def evidence(self, template: LeakEvidence, count: int) -> LeakEvidence:
        """Return the evidence with the first `count` things that were recorded."""
        return replace(
            template,
            credentials=dict(self.credentials),
            received=tuple(self.received[:count]),
            used={key: tuple(found) for key, found in self.used.items()},
            written={sub: frozenset(found) for sub, found in self.written.items()},
        )


Server = Callable[[], tuple[str, str]]
"""Returns the name and the URL of a server to connect to."""
