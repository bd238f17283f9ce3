"""URLs that may hold secrets: how they are shown, and texts that may repeat them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, unquote

_WORDS: Final = "password|token|secret"
_USERINFO: Final = re.compile(r"(?<=://)([^:@/]*):.*@")
_SECRET_OPTION: Final = re.compile(rf"((?:{_WORDS})[a-z]*[=:])[^&,;]*", re.IGNORECASE)
_SECRET_NAME: Final = re.compile(f"{_WORDS}|authmechanismproperties", re.IGNORECASE)
_SHORT: Final = 2
"""Characters of a piece that any text may hold by chance."""


def masked(url: str) -> str:
    """Return the URL without password, token or secret, and rather too little of it than too much."""
    return _SECRET_OPTION.sub(r"\1***", _USERINFO.sub(r"\1:***@", url))


def bare(url: str) -> str:
    """Return the URL without user, password and query; a path is returned as it is."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}" if separator else url


def without_secrets(text: str, url: str) -> str:
    """Return `text`, or where it repeats a part of the URL's user, password or tokens, a substitute."""
    rest = url.partition("://")[2] or url
    pieces = re.split(r"[:@/?&=]", rest.rpartition("@")[0])
    pieces += [value for name, value in parse_qsl(rest.partition("?")[2]) if _SECRET_NAME.search(name)]
    pieces += [unquote(piece) for piece in pieces]
    if any(piece in text for piece in pieces if len(piece) > _SHORT):
        return "what the library says of it repeats a part of its secrets, and is not shown"
    return text
