"""Every kind of client, and which of them there are on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from support.peers import chromium, javascript
from support.peers.curl import CurlPolling, CurlSse
from support.peers.javascript import Runtime, ScriptPeer
from support.peers.package import PackagePeer
from support.peers.peer import Peer, TransportName
from support.peers.python import HttpxPolling, HttpxSse, Websockets


def _curl_missing() -> str | None:
    return None if shutil.which("curl") else "needs curl: scripts/peers installs it, as root on Debian"


def _never() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Make:
    """A kind of client. `missing` says why there is none here; `runtime` names the fixture with what it runs in."""

    transport: TransportName
    missing: Callable[[], str | None]
    plain: Callable[[], Peer] | None = None
    runtime: str | None = None

    def peer(self, name: str, runtime: Runtime | None) -> Peer:
        if self.plain is not None:
            return self.plain()
        assert runtime is not None
        return ScriptPeer(name, self.transport, runtime)


MAKES: Final[Mapping[str, Make]] = {
    "websockets": Make("websocket", _never, Websockets),
    "node-ws": Make("websocket", javascript.node_missing, runtime="node"),
    "chromium-websocket": Make("websocket", chromium.missing, runtime="chromium"),
    "eventsync-client-websocket": Make("websocket", _never, partial(PackagePeer, "websocket")),
    "httpx-sse": Make("sse", _never, HttpxSse),
    "curl-sse": Make("sse", _curl_missing, CurlSse),
    "node-eventsource": Make("sse", javascript.node_missing, runtime="node"),
    "chromium-eventsource": Make("sse", chromium.missing, runtime="chromium"),
    "eventsync-client-sse": Make("sse", _never, partial(PackagePeer, "sse")),
    "httpx": Make("http", _never, HttpxPolling),
    "curl": Make("http", _curl_missing, CurlPolling),
    "eventsync-client-http": Make("http", _never, partial(PackagePeer, "http")),
}


PACKAGE: Final = frozenset(name for name in MAKES if name.startswith("eventsync-client-"))
"""The kinds that are our own client."""


def of_transport(*transports: TransportName) -> list[str]:
    """The names of those."""
    return [name for name, make in MAKES.items() if make.transport in transports]
