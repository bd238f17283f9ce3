"""Every error that the client raises on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Base of the tree."""


class SyncFailed(ClientError):
    """Syncing has ended for good: the server refuses the client, or the store has failed."""


class ShapeRefused(ClientError):
    """The server refuses a shape. `code` is stable."""

    def __init__(self, shape: str, code: str, message: str) -> None:
        super().__init__(f"{shape}: {message} ({code})")
        self.shape = shape
        self.code = code


class InvalidDocument(ClientError, ValueError):
    """A document is not one of its model. `doc` is the document; `__cause__` is pydantic's error."""

    def __init__(self, shape: str, id: str, version: int, doc: Any, reason: str) -> None:
        super().__init__(f"{id} of {shape}, at version {version}, is not valid: {reason}")
        self.shape = shape
        self.id = id
        self.version = version
        self.doc = doc


class BarrierTimeout(ClientError, TimeoutError):
    """The shapes have not come to a barrier in time. It is not known if they have what was written before."""


class RequestError(ClientError):
    """A request was refused, or its outcome is unknown. `code` is stable, and `problem` the server's whole answer."""

    def __init__(self, status: int, code: str, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{message} ({code})")
        self.status = status
        self.code = code
        self.problem = dict(problem or {})


class NotFound(RequestError):
    """There is no such document, or it may not be read."""


class VersionMismatch(RequestError):
    """A condition does not hold. `current` is the version now, None if there is no document; `etag` the tag now."""

    def __init__(
        self, status: int, code: str, message: str, problem: Mapping[str, Any] | None = None, etag: str | None = None
    ) -> None:
        super().__init__(status, code, message, problem)
        self.current: int | None = self.problem.get("current")
        self.etag = etag


class Conflict(RequestError):
    """The write contradicts another one: a unique value, an id, or a key that was used for another request."""


class LogReset(Conflict):
    """The log does not continue from a position. `reason` is a word of the protocol, such as `before_horizon`.

    `oldest` and `head` are the positions between which a page of the log can begin; None in answers without a page.
    """

    def __init__(self, status: int, code: str, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(status, code, message, problem)
        self.reason = str(self.problem.get("reason", ""))
        self.oldest: str | None = self.problem.get("oldest")
        self.head: str | None = self.problem.get("head")


class Gone(RequestError):
    """A state of the past is not kept. `problem["since"]` is the position from which on it is."""


class Unauthenticated(RequestError):
    """There is no credential, or it is not accepted."""


class Forbidden(RequestError):
    """The rules do not allow it."""


class OutcomeUnknown(RequestError):
    """No answer that decides came in time: a write may have been made. The same call with the same key finds out."""

    def __init__(self, status: int, code: str, message: str, idempotency_key: str | None) -> None:
        super().__init__(status, code, message)
        self.idempotency_key = idempotency_key
