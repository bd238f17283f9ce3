"""Responses of known length: how their parts are sent."""

from __future__ import annotations

from typing import Any

import pytest

from eventsync.server.sized_response import Parts

pytestmark = pytest.mark.anyio

LARGE = b"x" * 300_000


async def _sent(parts: list[bytes]) -> tuple[str, list[tuple[bytes, bool]]]:
    """Return the announced length, and each body with whether more follow."""
    messages: list[Any] = []

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        messages.append(message)

    await Parts(parts, {}, "text/plain")({"type": "http"}, receive, send)
    start, *bodies = messages
    headers = dict(start["headers"])
    return headers[b"content-length"].decode(), [(body["body"], body["more_body"]) for body in bodies]


@pytest.mark.parametrize("parts", [[], [b"one"], [b"one", b"", b"two"]])
async def test_small_parts_are_sent_at_once(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert await _sent(parts) == (str(len(whole)), [(whole, False)])


@pytest.mark.parametrize(
    "parts", [[LARGE], [b"a", LARGE], [LARGE, b"a"], [b"a", LARGE, b"b", LARGE, b"c"], [b"y" * 1000] * 1000]
)
async def test_large_parts_are_sent_as_they_are(parts: list[bytes]) -> None:
    length, bodies = await _sent(parts)
    assert b"".join(body for body, _ in bodies) == b"".join(parts)
    assert length == str(len(b"".join(parts)))
    assert [more for _, more in bodies] == [True] * (len(bodies) - 1) + [False]
    assert sum(body is LARGE for body, _ in bodies) == parts.count(LARGE)
    assert len(bodies) <= 6
