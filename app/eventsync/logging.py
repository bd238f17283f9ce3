"""Log output of every process: one line an entry, on stderr, as text for people or as JSON for machines.

    2026-11-23T16:05:13.123Z INFO    eventsync_workers.worker: host:4711:a1b2c3 leads
    {"time":"2026-11-23T16:05:13.123Z","level":"info","logger":"eventsync_workers.worker","message":"…"}

Times are in UTC. Only a traceback in text takes more than one line, so input from clients can't forge log lines. A line
that is written for a request or a session names it.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, Final, Literal

FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
PERIOD: Final = 60.0
"""Seconds within which the same warning or alarm is logged once."""

BURST: Final = 100
"""Lines of one origin that are logged within a `PERIOD`, whatever is in them."""

ACCESS_LOG: Final = "eventsync.requests"
"""The logger of the access log, whose lines are not limited: an operator has chosen them."""

ACTION: Final = "operator: "
"""The beginning of the lines about operators' actions, which are not limited either."""

FIELDS: Final = "fields"
"""The key of `extra` under which a line has fields of its own, which JSON shows as they are."""

_MAX_KEYS: Final = 1000
"""Different lines that are remembered."""

_LONGEST: Final = 200
"""Characters of a subject in a line. It may be as long as a token."""

_QUIET: Final = ("pymongo", "uvicorn", "websockets", "asyncio", "opentelemetry", "urllib3")
"""Libraries whose `info` and `debug` lines only interest their own authors."""

LogFormat = Literal["text", "json"]


class LogContext:
    """The request or session that lines are about."""

    __slots__ = ("_request", "session", "subject")

    def __init__(self, request: str | None = None) -> None:
        """`request` is the id that the client has given to it; without one, the first line makes one."""
        self._request = request
        self.session: str | None = None
        self.subject: str | None = None

    @property
    def request(self) -> str:
        """The id of the request: 32 hexadecimal digits, the trace id where the client has sent a `traceparent`."""
        if self._request is None:
            self._request = secrets.token_hex(16)
        return self._request

    def fields(self) -> Iterator[tuple[str, str]]:
        """Yield what a line says of the context."""
        yield "request", self.request
        if self.session is not None:
            yield "session", self.session
        if self.subject:
            yield "subject", self.subject[:_LONGEST]


CONTEXT: Final[ContextVar[LogContext | None]] = ContextVar("eventsync_log_context", default=None)
"""The context of the running task, if it works for a request or a session."""


def name_session(session: str) -> None:
    """Name a session in the lines of the running task, and of the tasks that it starts."""
    if (context := CONTEXT.get()) is not None:
        context.session = session


def trace_of(traceparent: bytes) -> str | None:
    """Return the trace id of a `traceparent` header; None if it is not one (https://www.w3.org/TR/trace-context/)."""
    parts = traceparent.strip().split(b"-")
    if len(parts) < 4 or [len(part) for part in parts[:4]] != [2, 32, 16, 2] or parts[0] == b"ff":
        return None
    if (parts[0] == b"00" and len(parts) > 4) or not all(_is_hex(part) for part in parts[:4]):
        return None
    return None if parts[1] == b"0" * 32 or parts[2] == b"0" * 16 else parts[1].decode()


def _is_hex(part: bytes) -> bool:
    return not part.strip(b"0123456789abcdef")


class _Utc(logging.Formatter):
    """Formats times in UTC, with milliseconds."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


class LineFormatter(_Utc):
    """One line of text, with escaped line breaks, and the request and session at its end."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        line = super().formatMessage(record).rstrip()
        if (context := CONTEXT.get()) is not None:
            # JSON escapes quotes and line breaks, so that no subject can forge a field.
            fields = [f"{name}={json.dumps(text) if name == 'subject' else text}" for name, text in context.fields()]
            line += f" [{' '.join(fields)}]"
        return line.replace("\r", "\\r").replace("\n", "\\n")


class JsonFormatter(_Utc):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (context := CONTEXT.get()) is not None:
            line |= context.fields()
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Throttle:
    """Passes each key once in `PERIOD` and counts the suppressed ones. Remembers `_MAX_KEYS` keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, burst: int = 1) -> None:
        """Pass a key `burst` times in a period."""
        self._clock = clock
        self._burst = burst
        self._seen: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()
        """The begin of the period, and the number of lines in it, by key."""

    def passes(self, key: Hashable) -> str | None:
        """Return None to suppress the key, else a suffix for the line with the number of suppressed ones."""
        now = self._clock()
        at, count = self._seen.get(key, (-math.inf, 0))
        if now - at < PERIOD:
            self._seen[key] = at, count + 1
            return "" if count < self._burst else None
        self._seen[key] = now, 1
        # The oldest are forgotten first, so that ever new texts fill no memory.
        self._seen.move_to_end(key)
        if len(self._seen) > _MAX_KEYS:
            self._seen.popitem(last=False)
        return self._suffix(now - at, count)

    def overdue(self, *, at_the_end: bool = False) -> Iterator[tuple[Hashable, str]]:
        """Yield, and forget, the keys of which some were suppressed in a period that is over; `at_the_end` in any."""
        now = self._clock()
        # In the order of their periods' begins.
        while self._seen:
            key, (at, count) = next(iter(self._seen.items()))
            if now - at < PERIOD and not at_the_end:
                return
            del self._seen[key]
            if suffix := self._suffix(now - at, count):
                yield key, suffix

    def _suffix(self, seconds: float, count: int) -> str:
        held = count - self._burst
        return f" ({held} times more in the last {seconds:.0f} s)" if held > 0 else ""


class Repeats(logging.Filter):
    """Limits lines that repeat, and says how many were left out.

    The same warning passes once in `PERIOD`, so a retry loop may log each attempt. Of one origin, the same format of
    the same logger, `BURST` lines pass, whatever values are in them. Lines that start with ALARM always pass; `Alarms`
    throttles those. So does the record of operators' actions: else many of them would hide one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._same = Throttle(clock)
        self._origin = Throttle(clock, BURST)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.name == ACCESS_LOG or record.levelno < logging.INFO or text.startswith(("ALARM", ACTION)):
            return True
        often: str | None = ""
        if record.levelno >= logging.WARNING:
            often = self._same.passes((record.name, record.levelno, text))
        if often is None:
            return False
        origin = self._origin.passes((record.name, record.levelno, str(record.msg)))
        if origin is None:
            return False
        often = often or origin.replace("times", "such lines")
        if often:
            record.msg, record.args = text + often, ()
        return True

    def overdue(self, *, at_the_end: bool = False) -> Iterator[logging.LogRecord]:
        """Yield a line for each one of which some were left out, and whose period is over."""
        for throttle, kind in ((self._same, "times"), (self._origin, "such lines")):
            for key, often in throttle.overdue(at_the_end=at_the_end):
                assert isinstance(key, tuple)  # noqa: S101 - as `filter` has made it
                name, level, text = key
                yield logging.LogRecord(name, level, "", 0, text + often.replace("times", kind), None, None)


class LimitedHandler(logging.StreamHandler[Any]):
    """Writes lines to stderr, and what `Repeats` has left out once that is known."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._repeats = Repeats()
        self.addFilter(self._repeats)

    def emit(self, record: logging.LogRecord) -> None:
        for late in self._repeats.overdue():
            super().emit(late)
        super().emit(record)

    def close(self) -> None:
        for late in self._repeats.overdue(at_the_end=True):
            super().emit(late)
        super().close()


class Alarms:
    """Logs alarms: faults that only an operator can repair. Thousands of clients may run into the same one.

    Throttled here and not by `Repeats`, which only processes started from the command line install.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._throttle = Throttle(clock)

    def log(self, what: str) -> None:
        """Log `ALARM: what`, at level ERROR, once in `PERIOD`."""
        if (often := self._throttle.passes(what)) is not None:
            self._logger.error("ALARM: %s%s", what, often)


def finish_logging() -> None:
    """Write what `Repeats` has left out. The command line calls this before the line that says why it ends."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LimitedHandler):
            handler.close()


def configure_logging(level: str, log_format: LogFormat = "text") -> None:
    """Send all lines at `level` or above to stderr. The command line calls this once, and again at a restart."""
    handler = LimitedHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
