"""Random credentials and ticket requests: they are refused by their codes, and never fail the server."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from eventsync.settings import Settings
from support.ruled import Ruled, moved_system

COUNT = 300


def anything(chance: random.Random, depth: int = 0) -> Any:
    """Return a value of JSON, most of them nearly a request for a ticket."""
    kinds: list[Any] = ["docs", "docs/1", "", "?", "mine?owner=1", "d\0", "x" * 300, 7, None, True, 1e300, [], {}]
    if depth < 3:
        kinds += [[anything(chance, depth + 1) for _ in range(chance.randint(0, 4))] for _ in range(4)]
        kinds += [{chance.choice(["shapes", "shape", "x", ""]): anything(chance, depth + 1)} for _ in range(6)]
    return chance.choice(kinds)


@pytest.mark.slow
async def test_random_ticket_requests_are_answered_by_the_codes_of_bad_requests(
    settings: Settings, tmp_path: Path
) -> None:
    chance = random.Random(19)
    settings = settings.model_copy(update={"collections": ("docs",), "principal_tickets": 1_000_000})
    async with moved_system(settings, tmp_path) as system:
        await random_tickets(system, chance)
        await random_credentials(system, chance)


async def random_tickets(system: Ruled, chance: random.Random) -> None:
    async with system.bearing(system.token()) as client:
        statuses = set()
        for _ in range(COUNT):
            good = {"shapes": ["docs", "docs/1"][: chance.randint(1, 2)]}
            body = json.dumps(good if chance.random() < 0.3 else anything(chance)).encode()
            if chance.random() < 0.2:
                place = chance.randrange(len(body) + 1)
                body = body[:place] + bytes([chance.randrange(256)]) + body[place:]
            answer = await client.post("/v1/tickets", content=body, headers={"content-type": "application/json"})
            assert answer.status_code in {201, 400}, (body, answer.text)
            statuses.add(answer.status_code)
        assert statuses == {201, 400}
        as_json = {"content-type": "application/json"}
        assert (await client.post("/v1/tickets", content=b" " * 100_000, headers=as_json)).status_code == 413
        assert (await client.post("/v1/tickets", content=b"{}")).status_code == 415


async def random_credentials(system: Ruled, chance: random.Random) -> None:
    # All that a header may have, but for what ends a cookie.
    characters = [chr(code) for code in range(0x21, 0x100) if code != 0x7F and chr(code) != ";"]
    async with system.bearing() as client:
        good = system.token()
        for _ in range(COUNT):
            text = list(chance.choice([good, "esk_0123_x", "est_abc", good.rsplit(".", 1)[0], ""]))
            for _ in range(chance.randint(1, 5)):
                text.insert(chance.randrange(len(text) + 1), chance.choice(characters))
            credential = "".join(text)
            bearer = {b"Authorization": f"Bearer {credential}".encode("latin-1")}
            cookie = {b"Cookie": f"eventsync={credential}".encode("latin-1"), b"Sec-Fetch-Site": b"same-origin"}
            for answer in (
                await client.get("/v1/collections", headers=bearer),
                await client.post("/v1/session", headers=cookie),
                await client.get("/v1/sync/sse", params={"shape": "docs", "ticket": credential}),
            ):
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), credential
