"""The authenticator of a server process: from a credential to a principal.

What was revoked and which service keys there are is held in memory, and kept up to date by the feed. While the feed
is interrupted for longer than `DOUBTED_AFTER`, nobody is authenticated: a revocation might not be known here.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from eventsync.access.jwks import Fetch, KeySet
from eventsync.access.secret_file import SecretFile
from eventsync.access.tokens import LEEWAY, KeySource, Token, check_subject, invalid
from eventsync.concurrency.lru_cache import LRUCache
from eventsync.concurrency.single_flight import SingleFlight
from eventsync.concurrency.token_bucket import TokenBucket
from eventsync.domain.access.auth import AuthSettings, Issuer
from eventsync.domain.access.principal import Principal
from eventsync.errors import RateLimited, Unauthenticated, Unavailable
from eventsync.settings import Settings
from eventsync.stores.access import keys as service_keys
from eventsync.stores.access import tickets
from eventsync.stores.access.keys import ServiceKey
from eventsync.stores.access.revocations import of_key, of_subject
from eventsync.stores.access.tickets import Ticket
from eventsync.stores.stores import Credentials

DOUBTED_AFTER: Final = 5.0
"""Seconds without news of MongoDB after which no credential is accepted."""

_ENTRY: Final = 1024
"""Bytes of an entry of the cache, beyond its claims."""

_LOOKUPS: Final = 32
"""Reads of tickets that are under way at the same time."""

_LOOKUP_PERIOD: Final = 0.1
"""Seconds between two reads of service keys that are not known here."""

_MOST_UNKNOWN: Final = 1000
"""Unknown service keys that one read asks for."""


_BURST: Final = 10.0
"""Seconds over which the rate of wrong signatures is averaged."""

_MAX_SOURCES: Final = 10_000
"""Sources of wrong signatures that are remembered, those of the last ones. Each takes half a KiB."""


class WrongSignatures:
    """The wrong signatures that each source has had verified: an address, or a subject.

    A forged token with the name of a real key costs as much as a good one, 120 µs for ES256, and no cache knows it.
    """

    def __init__(self, rate: float) -> None:
        """Bound each source to `rate` a second; 0: no bound."""
        self._rate = rate
        self._budgets: OrderedDict[str, TokenBucket] = OrderedDict()
        self.refused = 0

    def check(self, source: str) -> None:
        """Raise `RateLimited` if a source has used up its budget."""
        if (budget := self._budgets.get(source)) is not None and budget.is_empty:
            self.refused += 1
            raise RateLimited("too many tokens from your address had a wrong signature: wait a second")

    def count(self, source: str) -> None:
        """Count a wrong signature."""
        if self._rate:
            if source not in self._budgets and len(self._budgets) >= _MAX_SOURCES:
                self._budgets.popitem(last=False)
            self._budgets.setdefault(source, TokenBucket(self._rate, seconds=_BURST)).take()
            self._budgets.move_to_end(source)


class Clock:
    """The clocks of an authenticator: `now` in Unix seconds, and one that is never set. Tests move them."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(slots=True, eq=False)
class Authenticated:
    """A principal, the issuer of its token, and the shapes that its ticket is for; None for all.

    All requests with one token share one. `access` is what the rules made of it last.
    """

    principal: Principal
    issuer: Issuer | None = None
    shapes: frozenset[str] | None = None
    access: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Verified:
    """An outcome of a verification, None for a wrong signature. It holds for a generation of the keys."""

    found: Authenticated | None
    source: KeySource
    generation: int
    size: int


class Authenticator:
    """Verifies credentials by the `[auth]` in force. Its state is replaced by the feed."""

    def __init__(
        self, credentials: Credentials, settings: Settings, *, clock: Clock | None = None, fetch: Fetch | None = None
    ) -> None:
        self.clock = clock or Clock()
        self._credentials = credentials
        self._settings = settings
        self._fetch = fetch
        self._auth = AuthSettings()
        self._sources: dict[Issuer, KeySource] = {}
        self._verified = self._empty_cache()
        self._keys: Mapping[str, ServiceKey] = {}
        self._of_keys: dict[str, Authenticated] = {}
        self._found: dict[str, ServiceKey] = {}
        """Keys that were looked up, until all keys are read again. The feed has that done when it brings the creation
        of one of these, and so before it could miss a revocation.
        """
        self._key_reads: SingleFlight[Mapping[str, ServiceKey]] = SingleFlight()
        self._unknown: set[str] = set()
        """The unknown keys that the next read asks for."""
        self._revoked: dict[str, float] = {}
        self._interrupted_at: float | None = None
        self._looked_up_at = -_LOOKUP_PERIOD
        self._lookups = asyncio.Semaphore(_LOOKUPS)
        self.wrong_signatures = WrongSignatures(settings.wrong_signatures)

    def _empty_cache(self) -> LRUCache[bytes, _Verified]:
        return LRUCache(self._settings.token_cache_bytes, lambda entry: entry.size)

    # --- what is known --------------------------------------------------------------------------------------------

    def configure(self, auth: AuthSettings) -> None:
        """Accept the credentials of `auth` from now on. The keys of issuers that stay are kept."""
        kept = {issuer: source for issuer, source in self._sources.items() if issuer in auth.issuers}
        for issuer, source in self._sources.items():
            if issuer not in kept:
                source.close()
        sources = {issuer: kept[issuer] if issuer in kept else self._source(issuer) for issuer in auth.issuers}
        self._auth, self._sources, self._verified = auth, sources, self._empty_cache()

    def _source(self, issuer: Issuer) -> KeySource:
        if issuer.secret_file is not None:
            return SecretFile(issuer.secret_file, self.clock.monotonic)
        keys = KeySet(str(issuer.jwks), clock=self.clock.monotonic, fetch=self._fetch)
        keys.refresh_ahead()
        return keys

    def close(self) -> None:
        """End what is done in the background."""
        for source in self._sources.values():
            source.close()

    async def load(self) -> None:
        """Read all revocations and service keys. Raises `Unavailable`."""
        self._revoked = dict(await self._credentials.revocations.read())
        await self.load_keys()

    async def load_keys(self) -> None:
        """Read all service keys. Raises `Unavailable`."""
        found = list(self._found)
        self._keys = {key.id: key for key in await self._credentials.keys.read()}
        self._of_keys = {}
        # One that was looked up meanwhile may have been created too late for this read.
        for id_ in found:
            self._found.pop(id_, None)

    async def load_revocations(self, names: Iterable[str]) -> None:
        """Read new revocations. Raises `Unavailable`."""
        self._revoked |= await self._credentials.revocations.read(names)

    def interrupted(self) -> None:
        """Note that the feed does not follow MongoDB any more."""
        if self._interrupted_at is None:
            self._interrupted_at = self.clock.monotonic()

    def follows(self) -> None:
        """Note that the feed follows MongoDB, and that all that was stored before is loaded."""
        self._interrupted_at = None

    # --- credentials ----------------------------------------------------------------------------------------------

    async def authenticate(self, text: str, source: str = "") -> Authenticated:
        """Verify a token or a service key, which comes from `source`.

        Raises `RateLimited`, `Unauthenticated` and `Unavailable`.
        """
        self._check_news()
        if text.startswith(service_keys.PREFIX):
            found = await self._of_key(text)
        elif (verified := (await self._verify(text, source)).found) is not None:
            found = verified
        else:
            raise invalid("no key of its issuer has signed it")
        self.check(found)
        return found

    async def authenticate_ticket(self, text: str) -> Authenticated:
        """Verify a ticket. Raises `Unauthenticated` and `Unavailable`."""
        self._check_news()
        ticket = None
        if text.startswith(tickets.PREFIX) and len(text) <= tickets.MAX_TICKET and text.isascii():
            async with self._lookups:
                ticket = await self._credentials.tickets.find(text)
        if ticket is None:
            raise invalid("there is no such ticket, or not any more")
        found = self.of_ticket(ticket)
        self.check(found)
        return found

    def of_ticket(self, ticket: Ticket) -> Authenticated:
        """Return what a ticket stands for."""
        return Authenticated(ticket.principal, self._auth.issuer(ticket.principal.claims.get("iss")), ticket.shapes)

    def check(self, found: Authenticated) -> None:
        """Check again what may change after a credential was verified: time, revocations, issuers.

        Raises `Unauthenticated`.
        """
        principal = found.principal
        if principal.expires is not None and principal.expires + LEEWAY <= self.clock.now():
            raise _ended("token_expired", principal)
        if (accepted_from := self._revoked_until(principal)) is not None:
            left = accepted_from - self.clock.now()
            raise _ended("token_revoked", principal, math.ceil(left) if left > 0 else None)
        # Tokens of an issuer that was taken out of the rules end at once. Service keys have none.
        if not _is_of_key(principal) and found.issuer not in self._sources:
            raise invalid("its issuer is none of those in the rules")

    def _revoked_until(self, principal: Principal) -> float | None:
        """Return the time from which on a new credential is accepted, if this one was revoked; None if it was not.

        A subject's tokens that were issued later are good: it has signed in again since. The issuer's clock may be
        ahead of MongoDB's by the leeway, so a token that looks younger by less than that may be an older one.
        """
        if not self._revoked:
            return None
        if principal.credential in self._revoked:
            return 0.0
        at = self._revoked.get(of_subject(principal.sub))
        # Service keys are dated by MongoDB itself.
        leeway = 0.0 if _is_of_key(principal) else LEEWAY
        if at is None or (principal.issued is not None and principal.issued > at + leeway):
            return None
        # `iat` has whole seconds.
        return math.floor(at + LEEWAY) + 1.0

    def _check_news(self) -> None:
        at = self._interrupted_at
        if at is not None and self.clock.monotonic() - at > DOUBTED_AFTER:
            raise Unavailable("credentials can't be checked: MongoDB is not reached")

    # --- tokens ---------------------------------------------------------------------------------------------------

    async def _verify(self, text: str, source: str) -> _Verified:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._verified.get(key)
        if known is not None and not known.source.is_fresh:
            await known.source.check()
            known = self._verified.get(key)  # none is, if the rules have changed meanwhile
        if known is not None:
            if known.generation == known.source.generation:
                return known
            # The keys of an issuer have changed, so every kept outcome may be another now.
            self._verified = self._empty_cache()
        self.wrong_signatures.check(source)
        token = Token.parse(text)
        while (verified := await self._verify_by_rules(token, len(text))) is None:
            pass  # each turn takes a change of the rules
        if verified.found is None:
            self.wrong_signatures.count(source)
        self._verified.keep(key, verified)
        return verified

    async def _verify_by_rules(self, token: Token, length: int) -> _Verified | None:
        """Verify the signature, then the claims. Return None if the rules have replaced the issuer meanwhile.

        A signature that is wrong is an outcome, too: it stays wrong.
        """
        issuer = self._auth.issuer(token.claims.get("iss"))
        if issuer is None:
            raise invalid("its issuer is none of those in the rules")
        source = self._sources[issuer]
        try:
            is_signed = await token.is_signed(issuer, source)
        except (Unauthenticated, Unavailable):
            if self._sources.get(issuer) is source:
                raise
            return None
        if self._sources.get(issuer) is not source:
            return None
        if not is_signed:
            return _Verified(None, source, source.generation, _ENTRY)
        principal = token.principal(issuer, now=self.clock.now(), max_lifetime=self._settings.token_lifetime)
        return _Verified(Authenticated(principal, issuer), source, source.generation, _ENTRY + 4 * length)

    # --- service keys ---------------------------------------------------------------------------------------------

    async def _of_key(self, text: str) -> Authenticated:
        parts = service_keys.split(text)
        key = None if parts is None else await self._key(parts[0])
        if key is None or parts is None or not key.is_proven_by(parts[1]):
            raise invalid("there is no such service key")
        if key.revoked is not None:
            raise _ended("token_revoked", _principal_of(key))
        if (known := self._of_keys.get(key.id)) is None:
            known = Authenticated(_principal_of(key))
            # One that the feed has not brought yet is kept by `_found` alone.
            if key.id in self._keys:
                self._of_keys[key.id] = known
        return known

    async def _key(self, id_: str) -> ServiceKey | None:
        if (key := self._keys.get(id_) or self._found.get(id_)) is not None:
            return key
        if len(self._unknown) >= _MOST_UNKNOWN:
            raise Unavailable("too many unknown service keys are looked up now", retry_after=1.0)
        (unknown := self._unknown).add(id_)
        return (await self._key_reads.fetch(id(unknown), lambda: self._look_up(unknown))).get(id_)

    async def _look_up(self, unknown: set[str]) -> Mapping[str, ServiceKey]:
        """Read keys that the feed has not brought yet, all that are asked for until then: made-up ones cause few reads.

        They delay a key that was created just now, but do not have it refused.
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._looked_up_at + _LOOKUP_PERIOD - loop.time())
        self._looked_up_at, self._unknown = loop.time(), set()
        found = {key.id: key for key in await self._credentials.keys.read(unknown)}
        self._found |= found
        return found


def _ended(reason: str, principal: Principal, retry_after: float | None = None) -> Unauthenticated:
    return Unauthenticated(reason, retry_after=retry_after, subject=principal.sub, credential=principal.credential)


def _is_of_key(principal: Principal) -> bool:
    """Return True if the credential is a service key, or a ticket that was made by one."""
    return principal.credential.startswith(of_key(""))


def _principal_of(key: ServiceKey) -> Principal:
    claims = {"sub": f"key:{key.name}"} | dict(key.claims)
    expires = None if key.expires is None else key.expires.timestamp()
    return Principal(check_subject(claims["sub"]), claims, key.roles, expires, key.created.timestamp(), of_key(key.id))


def ticket_of(found: Authenticated, shapes: Iterable[str], *, ends: float) -> Ticket:
    """Return a ticket for these shapes, which ends at `ends` or with its credential."""
    principal = found.principal
    return Ticket(replace(principal, expires=min(ends, principal.expires or ends)), frozenset(shapes))
