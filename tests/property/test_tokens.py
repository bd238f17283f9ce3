"""Any text that a client sends as a token is parsed, or refused as `unauthenticated`; nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import Key

from eventsync.access.tokens import Token
from eventsync.domain.access.auth import Issuer
from eventsync.domain.access.principal import Principal
from eventsync.errors import Unauthenticated
from eventsync.stores.access import keys
from support.identity import NOW, oct_key, signed, token

ISSUER = Issuer("backend", ("HS256",), secret_file="/secret")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["alg", "typ", "kid", "crit", "b64", "jwk", "jku", "iss", "sub", "aud", "exp", "nbf", "iat", "jti"]
)
OBJECTS = st.dictionaries(NAMES | st.text(max_size=4), JSON, max_size=6)


class _Keys:
    generation = 0
    is_fresh = True

    async def check(self) -> None: ...

    def close(self) -> None: ...

    async def keys(self, kid: str | None) -> Sequence[Key]:  # noqa: ARG002
        return [oct_key()]


async def outcome(text: str) -> Principal | None:
    """Return the principal of a text, or None if it is refused. Any other error fails the test."""
    try:
        return await verified(text)
    except Unauthenticated as error:
        refusal = error
    assert refusal.reason in refusal.REASONS
    assert text not in refusal.message or len(text) < 20
    return None


async def verified(text: str) -> Principal | None:
    parsed = Token.parse(text)
    if not await parsed.is_signed(ISSUER, _Keys()):
        return None
    return parsed.principal(ISSUER, now=NOW, max_lifetime=86400)


@given(st.text() | st.from_regex(r"\A[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\Z"))
async def test_any_text_is_refused(text: str) -> None:
    assert await outcome(text) is None


@given(OBJECTS, OBJECTS)
async def test_any_signed_objects_are_refused_or_have_a_subject(header: dict[str, Any], claims: dict[str, Any]) -> None:
    text = signed({"alg": "HS256"} | header, {"iss": "backend", "iat": NOW, "exp": NOW + 60} | claims)
    principal = await outcome(text)
    if principal is not None:
        assert principal.sub == claims["sub"]
        assert principal.expires is not None
        # What a claim says can be stored and compared.
        json.dumps(dict(principal.claims), allow_nan=False).encode()


@given(st.binary(max_size=200), st.binary(max_size=200))
async def test_any_signed_bytes_are_refused_or_have_a_subject(header: bytes, payload: bytes) -> None:
    assert await outcome(signed(header, payload)) is None
    assert await outcome(signed({"alg": "HS256"}, payload)) is None


@given(st.integers(0, 10_000), st.characters(codec="ascii"))
async def test_a_changed_character_changes_no_principal(where: int, put: str) -> None:
    good = token(groups=["blue"])
    where %= len(good)
    changed = good[:where] + put + good[where + 1 :]
    principal = await outcome(changed)
    # The last character of a part has bits that no decoder looks at.
    assert principal is None or principal == await outcome(good)


@given(st.text())
def test_any_text_is_split_as_a_key_or_is_none(text: str) -> None:
    parts = keys.split(text)
    assert parts is None or f"esk_{parts[0]}_{parts[1]}" == text
