"""Principals: the subjects that requests come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

OPERATOR: Final = "operator"
"""The role that may use operators' doors. The name is reserved for it."""

OBSERVER: Final = "observer"
"""The role that may look through operators' doors and change nothing. The name is reserved for it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The origin of a request: a subject, its claims, and the credential that proved them.

    `claims` has `sub`, too. `roles` are those given directly, as to a service key; others come from `[roles]`. Times
    are Unix seconds. `credential` names the token, key or ticket for revocation and audit, and is never a secret.
    """

    sub: str
    claims: Mapping[str, Any] = field(default_factory=dict)
    roles: frozenset[str] = frozenset()
    expires: float | None = None
    issued: float | None = None
    credential: str = ""

    @property
    def rule_claims(self) -> Mapping[str, Any]:
        """The claims that a rule may name, the subject among them. Roles go by `claims` as they are."""
        return self.claims if "sub" in self.claims else {**self.claims, "sub": self.sub}


_SCOPE: Final = re.compile(r"[0-9a-f]{32}~")


def scope_of(sub: str) -> str:
    """Return the prefix of the stored form of each name that a subject chooses: `client_id`, `Idempotency-Key`.

    So the names of two subjects never meet, whatever they are.
    """
    return blake2b(sub.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest() + "~"


def scope_in(stored: str) -> str:
    """Return the prefix of the stored form of a name; nothing for one of an open server."""
    found = _SCOPE.match(stored)
    return "" if found is None else found[0]


def name_within(stored: str) -> str:
    """Return the name that a client chose, of its stored form."""
    return stored.removeprefix(scope_in(stored))


ANONYMOUS: Final = Principal("anonymous")
"""Everybody, while no `[auth]` has been applied."""
