from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from eventsync.errors import ConfigurationError
from eventsync.server import sockets as module
from eventsync.server.sockets import listening

LOOPBACK = "127.0.0.1"


@contextmanager
def opened(host: str, port: int, *, reuse_port: bool = False) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(listener) for listener in listening(host, port, reuse_port=reuse_port)]


def port_of(listeners: list[socket.socket]) -> int:
    return int(listeners[0].getsockname()[1])


def test_a_client_waits_until_a_server_accepts() -> None:
    with opened(LOOPBACK, 0) as listeners, socket.create_connection((LOOPBACK, port_of(listeners)), 5) as client:
        client.sendall(b"hello")
        accepted, _ = listeners[0].accept()
        with accepted:
            assert accepted.recv(5) == b"hello"


def test_a_used_port_is_refused() -> None:
    with opened(LOOPBACK, 0) as listeners:
        port = port_of(listeners)
        for reuse_port in (False, True):
            with pytest.raises(ConfigurationError, match=f"port {port} on {LOOPBACK} is in use.*--port"):
                listening(LOOPBACK, port, reuse_port=reuse_port)


def test_a_port_is_shared_where_both_want_it() -> None:
    with opened(LOOPBACK, 0, reuse_port=True) as first:
        port = port_of(first)
        with opened(LOOPBACK, port, reuse_port=True) as second:
            assert port_of(second) == port
        first[0].listen()
        with pytest.raises(ConfigurationError, match="is in use"):
            listening(LOOPBACK, port)


def test_a_server_that_shares_a_port_takes_nothing_before_it_serves() -> None:
    with opened(LOOPBACK, 0, reuse_port=True) as first, opened(LOOPBACK, port_of(first), reuse_port=True):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, port_of(first)), 5)
        first[0].listen()
        for _ in range(20):
            socket.create_connection((LOOPBACK, port_of(first)), 5).close()


def test_each_address_of_a_host_is_listened_on_at_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, (LOOPBACK, 0)), (socket.AF_INET, ("127.0.0.2", 0))]
    monkeypatch.setattr(module, "_addresses", lambda _host, _port: found)
    with opened("both", 0) as listeners:
        assert [listener.getsockname()[0] for listener in listeners] == [LOOPBACK, "127.0.0.2"]
        assert len({listener.getsockname()[1] for listener in listeners}) == 1


def test_an_address_that_this_machine_lacks_is_no_hindrance_beside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, ("192.0.2.1", 0)), (socket.AF_INET, (LOOPBACK, 0))]
    monkeypatch.setattr(module, "_addresses", lambda _host, _port: found)
    with opened("both", 0) as listeners:
        assert [listener.getsockname()[0] for listener in listeners] == [LOOPBACK]
    monkeypatch.setattr(module, "_addresses", lambda _host, _port: found[:1])
    with pytest.raises(ConfigurationError, match="--host"):
        listening("none", 0)


def test_two_colons_are_all_addresses_of_both_families() -> None:
    with opened("::", 0) as listeners:
        for host in (LOOPBACK, "::1") if len(listeners) > 1 else (LOOPBACK,):
            socket.create_connection((host, port_of(listeners)), 5).close()
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
    with opened("::1", 0) as [only], pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, only.getsockname()[1]), 5)
