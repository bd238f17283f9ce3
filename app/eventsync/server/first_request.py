"""A connection that has just been made is not closed before its first request, however soon the server goes."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_AWAITED: Final = 0.5
"""Seconds that a client which has just connected gets, at shutdown, to say what for."""


class FirstRequest(HttpToolsProtocol):
    """uvicorn closes at shutdown whatever is not in the middle of a response.

    That is right for a connection that was used and is kept, which its client knows may end; who has just connected,
    while another server would have been there for it, has a request on its way, and takes its loss for an outage.
    """

    _leaving = False

    def shutdown(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self._leaving = True
            self.loop.call_later(_AWAITED, self._give_up)
        else:
            super().shutdown()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def _give_up(self) -> None:
        # Who has become a WebSocket since has another protocol.
        if self.cycle is None and self in self.connections:
            self.transport.close()
