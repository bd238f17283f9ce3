"""URLs: of servers, and without their secrets, also in texts that may quote them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from eventsync.errors import ConfigurationError

_WORDS: Final = "password|token|secret"
_USERINFO: Final = re.compile(r"(?<=://)([^:@/]*):.*@")
_SECRET_OPTION: Final = re.compile(rf"((?:{_WORDS})[a-z]*[=:])[^&,;]*", re.IGNORECASE)
_SECRET_NAME: Final = re.compile(f"{_WORDS}|authmechanismproperties", re.IGNORECASE)
_SHORT: Final = 2
"""Pieces up to this length may occur in any text by chance."""


def masked(url: str) -> str:
    """Return the URL with its password, tokens and secrets masked. In doubt, too much is masked."""
    return _SECRET_OPTION.sub(r"\1***", _USERINFO.sub(r"\1:***@", url))


def bare(url: str) -> str:
    """Return the URL without user, password and query. A path is returned unchanged."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}" if separator else url


def without_secrets(text: str, url: str) -> str:
    """Return `text`, or a substitute if it quotes a part of the URL's user, password or tokens."""
    rest = url.partition("://")[2] or url
    pieces = re.split(r"[:@/?&=]", rest.rpartition("@")[0])
    pieces += [value for name, value in parse_qsl(rest.partition("?")[2]) if _SECRET_NAME.search(name)]
    pieces += [unquote(piece) for piece in pieces]
    if any(piece in text for piece in pieces if len(piece) > _SHORT):
        return "the library's message quotes a part of the secrets and is not shown"
    return text


def server_parts(url: str) -> SplitResult:
    """Return the parts of the URL of a server. Raises `ConfigurationError` for another one."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"--url takes the URL of a server, such as http://127.0.0.1:8000, not {url!r}")
    return parts
