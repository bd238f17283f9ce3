from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from eventsync.process import event_loop
from support.waiting import patience


class NameServer:
    """Stands where the system's resolver is called, and answers a name once it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._answers: dict[str, threading.Event] = {}

    def let(self, name: str) -> None:
        self._answers.setdefault(name, threading.Event()).set()

    def __call__(self, host: str, port: int, *_: object) -> event_loop.Answer:
        self.asked.append(host)
        self._answers.setdefault(host, threading.Event()).wait(patience(60))
        if host.startswith("missing"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.0.0.{len(host)}", port))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    yield server
    for name in server.asked:
        server.let(name)


def look_up(name: str) -> Awaitable[event_loop.Answer]:
    return asyncio.get_running_loop().getaddrinfo(name, 27017)


async def _asked(names: NameServer, count: int) -> None:
    while len(names.asked) < count:  # noqa: ASYNC110 - the event is in threads
        await asyncio.sleep(0)


def test_many_names_without_an_answer_do_not_delay_another(names: NameServer) -> None:
    async def main() -> event_loop.Answer:
        gone = [asyncio.ensure_future(look_up(f"gone{number}")) for number in range(100)]
        await _asked(names, 100)
        names.let("here")
        found = await look_up("here")
        assert not any(task.done() for task in gone)
        return found

    assert event_loop.run(main())[0][4] == ("10.0.0.4", 27017)


def test_a_name_is_looked_up_once_for_all_who_ask_meanwhile(names: NameServer) -> None:
    async def main() -> None:
        first, second, third = (asyncio.ensure_future(look_up("shared")) for _ in range(3))
        await _asked(names, 1)
        first.cancel()
        await asyncio.wait({first})
        names.let("shared")
        assert await second == await third
        assert names.asked == ["shared"]
        await look_up("shared")
        assert names.asked == ["shared"] * 2

    event_loop.run(main())


def test_a_lookup_without_an_answer_times_out(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "LOOKUP_TIMEOUT", 0.01)

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(socket.gaierror, match="no name server answers for 'gone'") as raised:
                await look_up("gone")
            assert raised.value.errno == socket.EAI_AGAIN
        # The look-up continues, and serves the next caller.
        assert names.asked == ["gone"]

    event_loop.run(main())


def test_the_number_of_lookups_is_bounded(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "MAX_LOOKUPS", 2)

    async def main() -> None:
        waiting = [asyncio.ensure_future(look_up(name)) for name in ("one", "two")]
        await _asked(names, 2)
        with pytest.raises(socket.gaierror, match="2 other names"):
            await look_up("three")
        names.let("one")
        await waiting[0]
        names.let("three")
        await look_up("three")

    event_loop.run(main())


def test_a_lookup_whose_thread_can_not_be_started_is_tried_again_by_the_next_caller(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "MAX_LOOKUPS", 1)
    names.let("here")

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as system:
            system.setattr(threading.Thread, "start", refused)
            with pytest.raises(socket.gaierror, match="'here' can't be looked up: can't start new thread") as raised:
                await look_up("here")
        assert raised.value.errno == socket.EAI_AGAIN
        assert await look_up("here")

    event_loop.run(main())


@pytest.mark.parametrize("name", ["missing", "missing.too"])
def test_an_error_of_the_resolver_is_raised(names: NameServer, name: str) -> None:
    names.let(name)

    async def main() -> None:
        with pytest.raises(socket.gaierror, match="no such name"):
            await look_up(name)

    event_loop.run(main())


@pytest.mark.parametrize("name", ["a" * 64 + ".test", "a..test"])
def test_a_name_that_can_not_be_encoded_is_an_unknown_name(name: str) -> None:
    async def main() -> None:
        with pytest.raises(socket.gaierror):
            await look_up(name)

    event_loop.run(main())


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), (b"127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_an_address_needs_no_thread(host: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))

    async def main() -> event_loop.Answer:
        return await asyncio.get_running_loop().getaddrinfo(host, 80)

    assert {found[4][0] for found in event_loop.run(main())} == {address}


def test_the_end_does_not_wait_for_a_name_server(names: NameServer) -> None:
    async def main() -> None:
        asyncio.ensure_future(look_up("gone"))  # noqa: RUF006 - it is abandoned on purpose
        await _asked(names, 1)

    event_loop.run(main())
    # What comes too late is nobody's business, and must not raise in its thread.
    names.let("gone")
    for thread in threading.enumerate():
        if thread.name == "look up 'gone'":
            thread.join(60)


def test_the_result_and_the_error_of_the_main_coroutine_come_back() -> None:
    async def main(action: Callable[[], int]) -> int:
        return action()

    assert event_loop.run(main(lambda: 3)) == 3
    with pytest.raises(ZeroDivisionError):
        event_loop.run(main(lambda: 1 // 0))
