"""The public keys of an issuer: a JSON Web Key Set behind a URL, kept and refreshed ahead of need.

A fetch never holds up the verification of a token whose key is known, and a failed fetch takes no key away. A token
with an unknown `kid` causes a fetch, but at most one every `RETRY` seconds, so that made-up ones cause no storm.

Source: RFC 7517.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from eventsync.concurrency.single_flight import SingleFlight
from eventsync.domain.access.auth import is_loopback
from eventsync.errors import Unavailable
from eventsync.logging import Alarms

logger = logging.getLogger(__name__)
_alarms = Alarms(logger)

REFRESH: Final = 300.0
"""Age of a set, in seconds, from which on it is fetched again in the background when it is used."""

RETRY: Final = 30.0
"""Seconds between two fetches from an issuer, whatever causes them."""

TIMEOUT: Final = 5.0
"""Longest fetch, in seconds."""

MAX_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 64
_MIN_RSA_BITS: Final = 2048
_KINDS: Final[dict[str, type[RSAKey | ECKey | OKPKey]]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

Fetch = Callable[[str], bytes]
"""Fetches the content of a URL. Called in a thread. Raises `OSError`, `ValueError` and `HTTPException`."""


class KeySet:
    """A `KeySource` of the keys behind a URL."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic, fetch: Fetch | None = None) -> None:
        self.generation = 0
        self._url = url
        self._clock = clock
        self._fetch = fetch or fetched
        self._keys: Sequence[Key] | None = None
        self._digests: frozenset[str] = frozenset()
        self._asked = -RETRY
        self._got = -REFRESH
        self._has_failed = False
        self._is_closed = False
        self._fetches: SingleFlight[None] = SingleFlight()
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def is_fresh(self) -> bool:
        return self._clock() - self._got < REFRESH

    async def check(self) -> None:
        self.refresh_ahead()

    async def keys(self, kid: str | None) -> Sequence[Key]:
        """Return the keys of this `kid`; all of them without one. Raises `Unavailable` while none were fetched."""
        if self._keys is None:
            await self._refresh()
        elif not self.is_fresh:
            self.refresh_ahead()
        found = self._named(kid)
        if not found and self._may_ask:
            await self._refresh()
            found = self._named(kid)
        if self._keys is None or (not found and self._has_failed):
            # The key may exist: the client must not take its token for a bad one.
            raise Unavailable("the keys of the token's issuer can't be fetched", retry_after=self._retry_after)
        return found

    def _named(self, kid: str | None) -> Sequence[Key]:
        keys = self._keys or ()
        return keys if kid is None else [key for key in keys if key.kid == kid]

    @property
    def _may_ask(self) -> bool:
        return self._clock() - self._asked >= RETRY or len(self._fetches) > 0

    @property
    def _retry_after(self) -> float:
        return max(1.0, self._asked + RETRY - self._clock())

    # --- fetching -------------------------------------------------------------------------------------------------

    def refresh_ahead(self) -> None:
        """Fetch the keys in the background, unless that was tried just now."""
        if self._may_ask and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.get_running_loop().create_task(
                self._refresh(), name="fetch the keys of an issuer"
            )

    async def _refresh(self) -> None:
        if self._may_ask:
            await self._fetches.fetch(None, self._fetch_keys)

    async def _fetch_keys(self) -> None:
        if self._is_closed:
            return
        self._asked = self._clock()
        try:
            keys = keys_of(await asyncio.to_thread(self._fetch, self._url))
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            self._has_failed = True
            _alarms.log(f"the keys of an issuer can't be fetched from {self._url}: {type(error).__name__}: {error}")
            return
        self._has_failed, self._got = False, self._clock()
        digests = frozenset(key.thumbprint() for key in keys)
        # Tokens that were verified by a key that is gone are verified again.
        self.generation += not self._digests <= digests
        self._keys, self._digests = keys, digests

    def close(self) -> None:
        """End a refresh in the background, and fetch nothing any more."""
        self._is_closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()


def keys_of(content: bytes) -> list[Key]:
    """Return the usable public keys of a key set. Raises `ValueError` if there is none, or if there are too many."""
    tree = json.loads(content)
    items = tree.get("keys") if isinstance(tree, dict) else None
    if not isinstance(items, list) or not items:
        raise ValueError("it is no key set")
    if len(items) > MAX_KEYS:
        raise ValueError(f"it has over {MAX_KEYS} keys")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joserfc warns of weak keys, which are left out here
        found = [key for key in map(_key, items) if key is not None]
    if not found:
        raise ValueError("it has no usable key")
    return found


def _key(item: Any) -> Key | None:
    """Return a public key for signatures, or None for one that is of another kind, or weak."""
    if not isinstance(item, dict) or item.get("use", "sig") != "sig":
        return None
    kind = _KINDS.get(str(item.get("kty")))
    if kind is None or not isinstance(item.get("kid", ""), str):
        return None
    try:
        key = kind.import_key({name: value for name, value in item.items() if name not in _PRIVATE})
        native = key.get_op_key("verify")
    except Exception:  # noqa: BLE001 - what the libraries or this machine's OpenSSL can't read takes no other key away
        return None
    return None if getattr(native, "key_size", _MIN_RSA_BITS) < _MIN_RSA_BITS and kind is RSAKey else key


# --- HTTP ---------------------------------------------------------------------------------------------------------


class _SameOrigin(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only within the same scheme, host and port."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            raise ValueError(f"it redirects ({code}) to another origin")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetched(url: str) -> bytes:
    """Return the content of a URL, bounded in bytes and time. For a thread: it blocks."""
    deadline = time.monotonic() + TIMEOUT
    handlers: list[urllib.request.BaseHandler] = [_SameOrigin()]
    if is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"Accept": "application/jwk-set+json, application/json"})  # noqa: S310 - `refused_url` has checked it
    with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT) as answer:
        content = b""
        # `read1` returns what has arrived: a server that sends a byte a second is given up in time.
        while piece := answer.read1(MAX_BYTES + 1 - len(content)):
            content += piece
            if len(content) > MAX_BYTES:
                raise ValueError(f"it has over {MAX_BYTES} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"it takes longer than {TIMEOUT:g} s")
    return content
