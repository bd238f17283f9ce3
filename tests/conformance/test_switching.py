"""One client's copy continues from transport to transport by its state vector alone."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Mapping

import pytest

from support.documents import LEAVES
from support.histories import History
from support.peers.makes import MAKES
from support.peers.peer import Peer
from support.peers.served import COLLECTIONS, Served
from support.peers.talk import Copy, talking

ROUND = ["websockets", "httpx-sse", "httpx"]


def journeys() -> dict[str, list[str]]:
    """Name → clients, one after the other."""
    found = {"websocket-sse-http": [*ROUND, *ROUND, *ROUND], "chromium-node-python": [
        "chromium-websocket", "node-eventsource", "httpx", "chromium-eventsource", "node-ws", "httpx-sse", "websockets",
    ]}  # fmt: skip
    for seed in range(3):
        found[f"seed {seed}"] = random.Random(seed).sample(list(MAKES), len(MAKES))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("journey", journeys())
async def test_vector_of_one_transport_resumes_on_all_others(
    peers: dict[str, Peer], served: Served, proxy_url: str, key: str, journey: str
) -> None:
    """Syncing: "One set of JSON messages, three transports": the vector of one continues over another."""
    rng = random.Random(journey)
    doors = itertools.cycle([served.url, proxy_url])
    stops = [name for name in journeys()[journey] if name in peers]
    copy = Copy(*COLLECTIONS, "orders/int:3")
    refetched = 0
    for number, name in enumerate(stops):
        async with talking(peers[name], next(doors), copy) as talk, asyncio.TaskGroup() as group:
            group.create_task(_write(served, f"{journey} {number}"), name="write in its way")
            # Cut wherever it is: in mid-snapshot, before it is live, after some events.
            for _ in range(rng.randint(1, 12)):
                await talk.next()
        refetched += number > 0 and "reset" in talk.kinds
    async with talking(peers["websockets"], served.url, copy) as talk:
        await talk.live()
        for name in COLLECTIONS:
            await served.seq(name, key)
            await talk.has(name, key)
        await talk.live()
    rows: dict[str, Mapping[str, object]] = {name: await served.rows(name) for name in COLLECTIONS}
    for name in COLLECTIONS:
        assert copy[name].documents == rows[name]
    assert copy["orders/int:3"].documents == {key: row for key, row in rows["orders"].items() if key == "int:3"}
    assert refetched == 0


async def _write(served: Served, seed: str) -> None:
    number = random.Random(seed).randrange(10**6)
    for name in COLLECTIONS:
        await History(served.collection(name), random.Random(number), range(8), LEAVES).run(6)
