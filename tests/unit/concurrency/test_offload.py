"""Work in helper processes: what comes back, what is refused, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import NamedTuple

import pytest

from eventsync.concurrency.offload import AnswerPickler, AnswerUnpickler, HelperTimeout, Offload, inline
from eventsync.domain.values.extended_json import JsonText, parse_json
from eventsync.errors import Malformed, TooComplex, Unavailable, VersionMismatch
from eventsync.settings import Settings

pytestmark = pytest.mark.anyio


def refuse() -> None:
    raise VersionMismatch("another one", current=7)


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def environment() -> dict[str, str]:
    return dict(os.environ)


@asynccontextmanager
async def offloading(processes: int = 1, waiting: int = 1000, seconds: float = 30.0) -> AsyncIterator[Offload]:
    offload = Offload(above=100, processes=processes, waiting_bytes=waiting, seconds=seconds)
    try:
        yield offload
    finally:
        await offload.close()


async def test_small_work_is_done_at_once_and_large_work_elsewhere() -> None:
    async with offloading() as offload:
        assert await offload.call(100, os.getpid) == os.getpid()
        assert offload.done == 0
        helper = await offload.call(101, os.getpid)
        assert helper != os.getpid()
        assert await offload.call(101, os.getpid) == helper  # it stays
        assert (offload.done, offload.waiting_bytes) == (2, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(helper, 0)


async def test_json_text_goes_and_comes_as_it_is() -> None:
    texts = [JsonText(b""), JsonText(b"1"), JsonText(b'"' + b"x" * 3_000_000 + b'"')]
    async with offloading(waiting=10**7) as offload:
        assert await offload.run(list, texts, size=4_000_000) == texts


class Answer(NamedTuple):
    large: bytes
    small: bytes


def test_large_values_of_an_answer_are_not_copied() -> None:
    """To unpickle 90 MiB takes 50 ms, wherever in the answer they are."""
    answer = {"a": (Answer(b"x" * 10**6, b"y"), [JsonText(b"z" * 10**6)]), "again": b"x" * 10**6}
    pickled = BytesIO()
    pickler = AnswerPickler(pickled)
    pickler.dump(answer)
    assert len(pickled.getvalue()) < 1000
    received = [bytes(bytearray(value)) for value in pickler.apart]
    found = AnswerUnpickler(pickled.getvalue(), received).load()
    assert found == answer
    assert all(value is own for value, own in zip((found["a"][0].large, found["a"][1][0].text), received, strict=False))


async def test_errors_come_back_with_what_they_carry() -> None:
    async with offloading() as offload:
        with pytest.raises(VersionMismatch, match="another one") as refused:
            await offload.run(refuse, size=1)
        assert refused.value.current == 7
        with pytest.raises(Malformed, match="not valid JSON"):
            await offload.run(parse_json, b"{", size=1)
        with pytest.raises(ValueError, match="invalid literal") as failed:
            await offload.run(int, "x", size=1)
        assert "in a helper process" in failed.value.__notes__[0]


async def test_the_queue_is_bounded_in_bytes() -> None:
    async with offloading() as offload:
        first = asyncio.ensure_future(offload.run(pid_after, 0.2, size=5000))  # one may exceed the bound
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too much large work"):
            await offload.run(os.getpid, size=1)
        assert offload.refused == 1
        helper = await first
        second = asyncio.ensure_future(offload.run(pid_after, 0.1, size=400))
        third = asyncio.ensure_future(offload.run(os.getpid, size=400))
        assert await second == await third == helper  # in turn, by the one that there is


async def test_work_that_takes_too_long_is_ended() -> None:
    async with offloading(seconds=2.0) as offload:
        helper = await offload.run(os.getpid, size=1)
        with pytest.raises(TooComplex, match="2 s of work"):
            await offload.run(pid_after, 60.0, size=1)
        assert await offload.run(os.getpid, size=1) not in {helper, os.getpid()}


async def test_work_is_refused_while_no_helper_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async with offloading() as offload:
        with monkeypatch.context() as system:
            system.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(Unavailable, match="could not be started"):
                await offload.run(os.getpid, size=1)
        assert offload.waiting_bytes == 0
        assert await offload.run(os.getpid, size=1) != os.getpid()


async def test_work_that_no_request_waits_for_has_longer_and_may_be_tried_again() -> None:
    settings = Settings(mongodb_uri="mongodb://unused", offload_timeout=0.2)
    async with Offload.running(settings, for_requests=False) as offload:
        assert await offload.run(pid_after, 0.5, size=1) != os.getpid()
        with pytest.raises(HelperTimeout, match="within 2 s"):
            await offload.run(pid_after, 60.0, size=1)
    assert issubclass(HelperTimeout, Unavailable)


async def test_a_helper_that_dies_is_replaced() -> None:
    async with offloading() as offload:
        helper = await offload.run(os.getpid, size=1)
        asked = asyncio.ensure_future(offload.run(pid_after, 60.0, size=1))
        while offload._idle:  # noqa: ASYNC110 - until it has been given the work
            await asyncio.sleep(0)
        os.kill(helper, signal.SIGKILL)
        with pytest.raises(Unavailable, match="has ended"):
            await asked
        assert await offload.run(os.getpid, size=1) != helper


async def test_work_that_nobody_waits_for_ends_its_helper() -> None:
    async with offloading() as offload:
        helper = await offload.run(os.getpid, size=1)
        asked = asyncio.ensure_future(offload.run(pid_after, 60.0, size=1))
        while offload._idle:  # noqa: ASYNC110 - until it has been given the work
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert offload.waiting_bytes == 0
        assert await offload.run(os.getpid, size=1) != helper


async def test_a_helper_knows_no_settings_and_ignores_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSYNC_MONGODB_URI", "mongodb://user:secret@host")
    async with offloading() as offload:
        known = await offload.run(environment, size=1)
        assert not any("EVENTSYNC" in name for name in known)
        helper = await offload.run(os.getpid, size=1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(helper, number)
        assert await offload.run(os.getpid, size=1) == helper


async def test_without_helpers_all_is_done_at_once() -> None:
    offload = inline()
    assert not offload.helps
    assert await offload.call(10**12, os.getpid) == os.getpid()
