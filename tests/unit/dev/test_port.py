from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from eventsync.dev.port import check_port, is_free
from eventsync.errors import ConfigurationError


@pytest.fixture
def used() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_used_port_is_refused_with_the_remedy(used: int) -> None:
    assert not is_free("127.0.0.1", used)
    with pytest.raises(ConfigurationError, match=f"port {used} on 127.0.0.1 is in use.*--port"):
        check_port("127.0.0.1", used)


def test_zero_takes_a_free_port() -> None:
    port = check_port("127.0.0.1", 0)
    assert is_free("127.0.0.1", port)
    assert check_port("127.0.0.1", port) == port


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_a_host_of_another_machine_is_refused_with_the_remedy(host: str) -> None:
    with pytest.raises(ConfigurationError, match="--host"):
        check_port(host, 0)
