"""Reference tokens of JSON Pointers. Pure.

Source: https://www.rfc-editor.org/rfc/rfc6901#section-3
"""

from __future__ import annotations


def escape(name: str) -> str:
    """Return the reference token that stands for a field name."""
    return name.replace("~", "~0").replace("/", "~1")


def unescape(token: str) -> str:
    """Return the field name that a reference token stands for."""
    return token.replace("~1", "/").replace("~0", "~")
