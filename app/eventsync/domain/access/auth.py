"""`[auth]` of a rules file: whose tokens are accepted, and how they are verified. Pure.

    [auth]
    issuers = [
      { iss = "https://id.example.com", jwks = "https://id.example.com/jwks", aud = "shop", algorithms = ["ES256"] },
      { iss = "our-backend", secret_file = "/run/secrets/eventsync", algorithms = ["HS256"] },
    ]

An issuer signs either with private keys, whose public ones are at `jwks`, or with the secret in `secret_file`. So no
token can choose to be verified by a public key as if that were a secret.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

from eventsync.errors import InvalidPredicate

SECRET_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
KEY_ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)

MAX_ISSUERS: Final = 16
MAX_TEXT: Final = 1024
"""Longest `iss`, `aud`, URL or path, in characters."""

_MAX_AUDIENCES: Final = 16
_FIELDS: Final = frozenset({"iss", "aud", "algorithms", "jwks", "secret_file"})


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer of tokens. Exactly one of `jwks` (a URL) and `secret_file` (an absolute path) is given.

    A token needs one of the audiences `aud`, unless there are none.
    """

    iss: str
    algorithms: tuple[str, ...]
    aud: tuple[str, ...] = ()
    jwks: str | None = None
    secret_file: str | None = None


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """The issuers whose tokens are accepted. Without any, only service keys are."""

    issuers: tuple[Issuer, ...] = ()

    def issuer(self, iss: object) -> Issuer | None:
        """Return the issuer that a token names, or None."""
        return next((issuer for issuer in self.issuers if issuer.iss == iss), None)


def read_auth(tree: Any) -> tuple[AuthSettings, list[InvalidPredicate]]:
    """Read the table `[auth]`. Never raises: the problems have their places in the table. What has one is left out."""
    if not isinstance(tree, Mapping):
        return AuthSettings(), [InvalidPredicate("", "is a table: [auth]")]
    problems = [InvalidPredicate(name, "is unknown; there is issuers") for name in tree.keys() - {"issuers"}]
    items = tree.get("issuers", [])
    if not isinstance(items, list) or len(items) > MAX_ISSUERS:
        return AuthSettings(), [*problems, InvalidPredicate("issuers", f"is a list of at most {MAX_ISSUERS} tables")]
    issuers: dict[str, Issuer] = {}
    for number, item in enumerate(items):
        issuer, found = _issuer(item)
        if issuer is not None and issuer.iss in issuers:
            issuer, found = None, [InvalidPredicate("iss", "is that of another issuer, too")]
        problems += [problem.within(f"issuers[{number}]") for problem in found]
        if issuer is not None:
            issuers[issuer.iss] = issuer
    return AuthSettings(tuple(issuers.values())), problems


def _issuer(item: Any) -> tuple[Issuer | None, list[InvalidPredicate]]:
    if not isinstance(item, Mapping):
        return None, [InvalidPredicate("", "is a table with iss, aud, algorithms, and jwks or secret_file")]
    problems = [
        InvalidPredicate(str(name), f"is unknown; there are {', '.join(sorted(_FIELDS))}")
        for name in item.keys() - _FIELDS
    ]
    if not _is_text(item.get("iss")):
        problems.append(InvalidPredicate("iss", "is the issuer's name, as its tokens have it in `iss`"))
    if ("jwks" in item) == ("secret_file" in item):
        return None, [*problems, InvalidPredicate("", "has either jwks or secret_file")]
    by_secret = "secret_file" in item
    problems += _source_problems(item, by_secret=by_secret)
    problems += _algorithm_problems(item.get("algorithms"), SECRET_ALGORITHMS if by_secret else KEY_ALGORITHMS)
    audiences = [item["aud"]] if isinstance(item.get("aud"), str) else item.get("aud", [])
    problems += _audience_problems(audiences, by_secret=by_secret)
    if problems:
        return None, problems
    given = (item["iss"], tuple(item["algorithms"]), tuple(audiences), item.get("jwks"), item.get("secret_file"))
    return Issuer(*given), []


def _source_problems(item: Mapping[str, Any], *, by_secret: bool) -> list[InvalidPredicate]:
    if by_secret:
        path = item["secret_file"]
        if _is_text(path) and PurePosixPath(path).is_absolute():
            return []
        reason = "is an absolute path: servers start in different directories, maybe on different machines"
        return [InvalidPredicate("secret_file", reason)]
    refused = refused_url(item["jwks"])
    return [] if refused is None else [InvalidPredicate("jwks", refused)]


def refused_url(url: Any) -> str | None:
    """Return the reason for which keys are not fetched from a URL, or None."""
    if not _is_text(url):
        return "is a URL: https://…"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no valid URL"
    if not host or parts.fragment or not url.isascii():
        return "is a URL with a host, in ASCII, without a fragment"
    if parts.username is not None or parts.password is not None:
        return "has a user or password, which anyone could read who may read the rules"
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)):
        return None
    return "is https; http only on loopback: whoever can change the answer signs tokens of anybody"


def is_loopback(host: str) -> bool:
    """Return True if a host name or address is that of this machine's loopback."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _algorithm_problems(algorithms: Any, known: tuple[str, ...]) -> list[InvalidPredicate]:
    if not isinstance(algorithms, list) or not algorithms or len(algorithms) > len(known):
        return [InvalidPredicate("algorithms", f"is a list of some of {', '.join(known)}")]
    return [
        InvalidPredicate(f"algorithms[{number}]", f"{str(name)[:32]!r} is none of {', '.join(known)}")
        for number, name in enumerate(algorithms)
        if name not in known
    ]


def _audience_problems(audiences: Any, *, by_secret: bool) -> list[InvalidPredicate]:
    if not isinstance(audiences, list) or len(audiences) > _MAX_AUDIENCES or not all(map(_is_text, audiences)):
        return [InvalidPredicate("aud", f"is a text, or a list of at most {_MAX_AUDIENCES}")]
    if not audiences and not by_secret:
        return [
            InvalidPredicate("aud", "is missing: the issuer signs tokens for other applications with the same keys")
        ]
    return []


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()
