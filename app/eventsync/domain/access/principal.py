"""Principals: those who ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

OPERATOR: Final = "operator"
"""The role that may use operators' doors. The name is reserved for it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The one who asks: a subject, its claims, and the credential that proved them.

    `claims` has `sub`, too. `roles` are those given directly, as to a service key; others come from `[roles]`. Times
    are Unix seconds. `credential` names the token, key or ticket for revocation and audit, and is never a secret.
    """

    sub: str
    claims: Mapping[str, Any] = field(default_factory=dict)
    roles: frozenset[str] = frozenset()
    expires: float | None = None
    issued: float | None = None
    credential: str = ""


ANONYMOUS: Final = Principal("anonymous")
"""Everybody, while no `[auth]` has been applied."""
