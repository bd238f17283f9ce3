"""Tokens: JSON Web Tokens in the compact form, parsed strictly, and verified by the keys of the issuer they name.

The algorithm is the issuer's: `alg` only selects one of those that the rules list. Keys come from the issuer, too; a
key or an address of keys in the header (`jwk`, `jku`, `x5c`, `x5u`) is never looked at.

Sources: RFC 7515, RFC 7519, RFC 8725.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

from joserfc.errors import JoseError
from joserfc.jwk import Key, OctKey
from joserfc.jws import JWSRegistry, serialize_compact

from eventsync.domain.access.auth import Issuer
from eventsync.domain.access.principal import Principal
from eventsync.errors import Unauthenticated

MAX_TOKEN: Final = 8 * 1024
"""Longest token, in characters."""

LEEWAY: Final = 10.0
"""Seconds by which the clocks of an issuer and of this server may differ."""

MAX_SUBJECT: Final = 256
"""Longest `sub`, in characters: the author of a write is stored with each document."""

MAX_LEVELS: Final = 32
"""Deepest nesting of claims."""

_SHAPE: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_TYPES: Final = frozenset({"jwt", "application/jwt", "at+jwt", "application/at+jwt"})
"""Values of `typ`, in lower case. Tokens of other kinds, such as those of a logout, are signed by the same keys."""

_INT64: Final = range(-(2**63), 2**63)


class KeySource(Protocol):
    """The keys of an issuer. `generation` changes whenever a key is not valid any more."""

    generation: int

    @property
    def is_fresh(self) -> bool:
        """True while there is no need for a `check`."""

    async def check(self) -> None:
        """Look at where the keys come from, at once or in the background."""

    def close(self) -> None:
        """End what is done in the background."""

    async def keys(self, kid: str | None) -> Sequence[Key]:
        """Return the keys that may have signed a token with this `kid`. Raises `Unavailable`."""


class _Algorithm(Protocol):
    """The part of an algorithm of joserfc that is used here."""

    def check_key(self, key: Any) -> None: ...

    def verify(self, msg: bytes, sig: bytes, key: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class Token:
    """A token that has been parsed and not been verified."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes

    @classmethod
    def parse(cls, text: str) -> Token:
        """Parse a token. Raises `Unauthenticated`."""
        if len(text) > MAX_TOKEN:
            raise invalid(f"a token has at most {MAX_TOKEN} characters")
        if (parts := _SHAPE.fullmatch(text)) is None:
            raise invalid("it is no token: three parts of base64url, with dots in between")
        header, claims = _object(parts[1], "header"), _object(parts[2], "payload")
        if "crit" in header or "b64" in header:
            raise invalid("its header has `crit` or `b64`, and no extension is understood here")
        if not isinstance(kind := header.get("typ", "JWT"), str) or kind.lower() not in _TYPES:
            raise invalid("its header has a `typ` other than JWT")
        return cls(header, claims, f"{parts[1]}.{parts[2]}".encode(), _decoded(parts[3]))

    @property
    def algorithm(self) -> str:
        """The `alg` of the header. Raises `Unauthenticated` if it is no text."""
        return _text(self.header, "alg", "header")

    @property
    def kid(self) -> str | None:
        """The `kid` of the header. Raises `Unauthenticated` if it is no text."""
        return _text(self.header, "kid", "header") if "kid" in self.header else None

    @property
    def id(self) -> str:
        """The name by which the token is revoked: its `jti`, or a digest of what is signed.

        Not of the signature: whoever has one valid signature can often make another one for the same token.
        """
        jti = self.claims.get("jti")
        if isinstance(jti, str) and 0 < len(jti) <= MAX_SUBJECT and jti.isprintable():
            return f"jti:{jti}"
        return f"token:{hashlib.sha256(self.signed).hexdigest()[:32]}"

    async def is_signed(self, issuer: Issuer, source: KeySource) -> bool:
        """Return True if a key of the issuer has signed the token.

        Raises `Unauthenticated` if there is no key to try, and `Unavailable` while the keys are not known.
        """
        name = self.algorithm
        if name not in issuer.algorithms:
            raise invalid("its algorithm is none of those that the rules list for its issuer")
        algorithm = _algorithm(name)
        keys = [key for key in await source.keys(self.kid) if _suits(algorithm, key)]
        if not keys:
            raise invalid("its issuer has no such key")
        if self.kid is None and len(keys) > 1:
            raise invalid("its header has no `kid`, and its issuer has several keys")
        return any(_is_signed(self, algorithm, key) for key in keys)

    def principal(self, issuer: Issuer, *, now: float, max_lifetime: float) -> Principal:
        """Check the claims and return the principal. Raises `Unauthenticated`.

        A token that is good for longer than `max_lifetime` is refused: it would outlive its revocation. So is one that
        does not say when it was issued: a revocation of its subject could not tell it from later ones.
        """
        claims = self.claims
        expires = _time(claims, "exp")
        if expires is None:
            raise invalid("it has no `exp`")
        if expires + LEEWAY <= now:
            subject = check_subject(claims.get("sub"))
            raise Unauthenticated("token_expired", subject=subject, credential=self.id)
        issued, begins = _time(claims, "iat"), _time(claims, "nbf")
        if issued is None:
            raise invalid("it has no `iat`")
        # By one clock, the issuer's. By this server's, such a token would be good later, without its revocation.
        if expires - issued > max_lifetime:
            raise invalid(f"it is good for over {max_lifetime:g} s (EVENTSYNC_TOKEN_LIFETIME)")
        if max(issued, begins or issued) > now + LEEWAY:
            raise invalid("it is not valid yet")
        self._check_audience(issuer)
        return Principal(check_subject(claims.get("sub")), claims, frozenset(), expires, issued, self.id)

    def _check_audience(self, issuer: Issuer) -> None:
        given = self.claims.get("aud")
        audiences = given if isinstance(given, list) else [given]
        if issuer.aud and not any(audience in issuer.aud for audience in audiences):
            raise invalid("it is for another audience")


def invalid(why: str) -> Unauthenticated:
    """Return the error for a credential that is refused. `why` names nothing of its content."""
    return Unauthenticated("token_invalid", f"the credential is not valid: {why}")


def check_subject(value: object) -> str:
    """Return a subject. Raises `Unauthenticated`."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_SUBJECT or not value.isprintable():
        raise invalid(f"its `sub` is no printable text of 1 to {MAX_SUBJECT} characters")
    return value


@cache
def _algorithm(name: str) -> _Algorithm:
    with warnings.catch_warnings():
        # RFC 9864 has the name Ed25519 for what providers call EdDSA.
        warnings.simplefilter("ignore")
        return JWSRegistry(algorithms=[name]).get_alg(name)


def _suits(algorithm: _Algorithm, key: Key) -> bool:
    try:
        algorithm.check_key(key)
    except JoseError:
        return False
    return True


def _is_signed(token: Token, algorithm: _Algorithm, key: Key) -> bool:
    try:
        return algorithm.verify(token.signed, token.signature, key)
    except (JoseError, ValueError):
        return False


def _text(header: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(value := header.get(name), str):
        raise invalid(f"its {where} has no text `{name}`")
    return value


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 section 2), or None without one."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(f"its `{name}` is no time")
    return float(value)


# --- strict JSON and base64url ------------------------------------------------------------------------------------


def _decoded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise invalid("a part of it is no base64url") from error


def _object(part: str, name: str) -> Mapping[str, Any]:
    """Return the JSON object of a part: no name twice, no number that no other program reads alike, valid text."""
    try:
        text = _decoded(part).decode()
        tree = _parse(text)
        # Each level has a bracket, and nearly all tokens have a few.
        if text.count("{") + text.count("[") > MAX_LEVELS:
            _check_levels(tree)
        if "\\u" in text:
            json.dumps(tree, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        raise invalid(f"its {name} is no strict JSON") from error
    if not isinstance(tree, dict):
        raise invalid(f"its {name} is no JSON object")
    return tree


def _check_levels(tree: Any, levels: int = MAX_LEVELS) -> None:
    """Raise `ValueError` for a value that nests deeper than other parts of the program can follow."""
    if isinstance(tree, dict | list):
        if levels == 0:
            raise ValueError("it nests too deeply")
        for item in tree.values() if isinstance(tree, dict) else tree:
            _check_levels(item, levels - 1)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is given twice")
    return members


def _integer(text: str) -> int:
    if len(text) > 20 or (number := int(text)) not in _INT64:
        raise ValueError("the number has over 64 bits")
    return number


def _float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("the number is infinite")
    return number


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


_parse: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_float, parse_constant=_constant
).decode


# --- minting ------------------------------------------------------------------------------------------------------


def mint(issuer: Issuer, secret: OctKey, sub: str, claims: Mapping[str, Any], *, now: float, expires_in: float) -> str:
    """Return a token of an issuer with a shared secret."""
    own: dict[str, Any] = {"iss": issuer.iss, "sub": sub, "iat": int(now), "exp": int(now) + int(expires_in)}
    own |= {"aud": issuer.aud[0]} if issuer.aud else {}
    header = {"alg": issuer.algorithms[0], "typ": "JWT"}
    return serialize_compact(header, json.dumps({**claims, **own}), secret, issuer.algorithms)
