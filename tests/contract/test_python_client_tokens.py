"""The Python client's token function, and what it tells of refusals, under rules."""

from __future__ import annotations

import time

import pytest

from eventsync_client import AsyncClient, NotFound, ShapeRefused, Status, SyncFailed, Unauthenticated
from eventsync_client.actions import Why
from eventsync_client.transports import Transport
from support.identity import token
from support.ruled import Ruled
from support.waiting import within

TRANSPORTS: list[Transport] = ["websocket", "sse", "http"]


def expired() -> str:
    return token(now=time.time() - 7200, sub="ada")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_refused_token_is_asked_for_again(ruled: Ruled, transport: Transport) -> None:
    asked: list[str] = []

    async def answer(why: Why) -> str:
        asked.append(why)
        return ruled.token("ada") if why == "refused" else expired()

    async with AsyncClient(ruled.url, token=answer, transport=transport) as client, within(30):
        await client.shape("open").live()
        assert asked == ["connect", "refused"]
        written = await client.collection("open").insert({"by": transport})
        assert asked == ["connect", "refused", "connect", "refused"]
        assert (await client.collection("open").get(written.id)).doc["by"] == transport


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_token_that_stays_refused_is_a_failure(ruled: Ruled, transport: Transport) -> None:
    async with AsyncClient(ruled.url, token=expired(), transport=transport) as client, within(30):
        with pytest.raises(SyncFailed, match="token_expired"):
            await client.shape("open").live()
        assert client.status is Status.FAILED
        with pytest.raises(Unauthenticated) as refusal:
            await client.collection("open").insert({})
        assert refusal.value.problem["reason"] == "token_expired"


async def test_token_function_that_fails_is_asked_again(ruled: Ruled) -> None:
    answers: list[OSError | str] = [OSError("the issuer is away"), ruled.token("ada")]

    def answer(_: Why) -> str:
        item = answers.pop(0)
        if isinstance(item, OSError):
            raise item
        return item

    async with AsyncClient(ruled.url, token=answer) as client, within(30):
        await client.shape("open").live()
        assert answers == []


async def test_refusal_by_the_rules_is_told(ruled: Ruled) -> None:
    async with AsyncClient(ruled.url, token=ruled.token("ada")) as client, within(30):
        allowed, closed = client.shape("open"), client.shape("closed")
        with pytest.raises(ShapeRefused) as refusal:
            await closed.live()
        assert refusal.value.code == "forbidden"
        await allowed.live()
        with pytest.raises(NotFound):  # what may not be read is as if it were not there
            await client.collection("closed").insert({})
