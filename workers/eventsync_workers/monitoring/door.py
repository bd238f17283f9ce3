"""Access to a worker's metrics, as to a server's: with `[auth]` in force for operators, else for this machine.

A worker knows service keys and no tokens: what scrapes it is a program.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, TypeVar

from eventsync.domain.access.auth import is_loopback
from eventsync.domain.access.principal import OPERATOR
from eventsync.errors import Unavailable
from eventsync.mongodb.client import time_limit
from eventsync.settings import Settings
from eventsync.stores.access.keys import ServiceKey, split
from eventsync.stores.stores import Stores

_PERIOD: Final = 10.0
"""Seconds for which the rules and a key are taken for what they were. While MongoDB is away, they stay so."""

_TIMEOUT: Final = 2.0
_MAX_KEYS: Final = 100

T = TypeVar("T")


class Door:
    """Decides about requests for the metrics. `stores` is None while the worker has none."""

    def __init__(self, settings: Settings) -> None:
        self._is_private = is_loopback(settings.worker_host) or settings.allow_unauthenticated
        self.stores: Stores | None = None
        self._has_rules: bool | None = None
        self._rules_read = -_PERIOD
        self._keys: dict[str, tuple[float, ServiceKey | None]] = {}

    async def check(self, authorization: str | None) -> HTTPStatus:
        """Return 200 if the request may be answered, else the status of its refusal."""
        has_rules = await self._rules()
        if has_rules is None:
            # Rules may be in force. The worker has not reached MongoDB yet.
            return HTTPStatus.SERVICE_UNAVAILABLE
        if not has_rules:
            return HTTPStatus.OK if self._is_private else HTTPStatus.FORBIDDEN
        scheme, _, text = (authorization or "").strip().partition(" ")
        named = split(text.strip()) if scheme.lower() == "bearer" else None
        if named is None:
            return HTTPStatus.UNAUTHORIZED
        key = await self._key(named[0])
        if key is None or not key.is_proven_by(named[1]) or _has_ended(key):
            return HTTPStatus.UNAUTHORIZED
        return HTTPStatus.OK if OPERATOR in key.roles else HTTPStatus.FORBIDDEN

    async def _rules(self) -> bool | None:
        """Return True if rules are in force; None before that is known."""
        now = time.monotonic()
        if self.stores is not None and now - self._rules_read >= _PERIOD:
            definitions = self.stores.definitions

            async def read() -> bool:
                return (await definitions.read()).rules is not None

            self._has_rules = await _in_time(read, self._has_rules)
            self._rules_read = now
        return self._has_rules

    async def _key(self, id_: str) -> ServiceKey | None:
        read_at, key = self._keys.get(id_, (-_PERIOD, None))
        if self.stores is None or time.monotonic() - read_at < _PERIOD:
            return key
        store = self.stores.credentials.keys
        key = await _in_time(lambda: store.find(id_), key)
        if len(self._keys) >= _MAX_KEYS:
            self._keys.clear()
        self._keys[id_] = time.monotonic(), key
        return key


async def _in_time(read: Callable[[], Awaitable[T]], otherwise: T) -> T:
    try:
        with time_limit(_TIMEOUT):
            return await read()
    except Unavailable:
        return otherwise


def _has_ended(key: ServiceKey) -> bool:
    return key.revoked is not None or (key.expires is not None and key.expires.timestamp() <= time.time())
