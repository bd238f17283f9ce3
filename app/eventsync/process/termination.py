"""The signals that end a process, heard besides the handlers that others have installed."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def on_termination(callback: Callable[[], None]) -> Iterator[None]:
    """While the block runs, call `callback` in the running event loop at SIGINT and SIGTERM.

    The handlers that are there run as before. A signal without one ends the process at once, and still does. Outside
    of the main thread Python hears no signals, and this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for number in _SIGNALS:
            if callable(handler := signal.getsignal(number)):
                stack.enter_context(_heard(number, handler, lambda: loop.call_soon_threadsafe(callback)))
        yield


@contextmanager
def _heard(number: int, handler: Handler, callback: Callable[[], object]) -> Iterator[None]:
    def both(received: int, frame: FrameType | None) -> None:
        callback()
        handler(received, frame)

    signal.signal(number, both)
    try:
        yield
    finally:
        # A handler that was installed since stays.
        if signal.getsignal(number) is both:
            signal.signal(number, handler)
