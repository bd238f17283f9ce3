"""The spans of commits: from the command that makes a write until a majority has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from eventsync.nodestorage.author import Author
from eventsync.nodestorage.retry import Lost
from eventsync.tracing.process import current

if TYPE_CHECKING:  # it imports OpenTelemetry
    from eventsync.tracing.spans import TraceSpan, Tracing

_LOST: Final = "lost_race"
_UNTRACED: Final = nullcontext()


class CommitSpans:
    """The spans of those writes of one command that are traced. Each is in the trace of its own request.

    The first one is linked with the others, so that from any of them one finds what shared the command.
    """

    def __init__(self, spans: Sequence[TraceSpan | None]) -> None:
        self._spans = spans

    def note(self, outcomes: Sequence[object]) -> None:
        """Take the outcome of each write: None, a result, or an error."""
        for span, outcome in zip(self._spans, outcomes, strict=True):
            if span is None:
                continue
            if isinstance(outcome, Lost):
                span.set({"eventsync.outcome": _LOST})  # it is tried again, which is no failure
            elif isinstance(outcome, Exception):
                span.fail(type(outcome).__name__)


def committing(
    collection: Any, operation: str, authors: Sequence[Author], *, size: int = 0
) -> AbstractContextManager[CommitSpans | None]:
    """Trace a command that makes the writes of `authors`, one each, while the block runs. None if none is traced.

    `collection` is the driver's. `size` is the number of operations, where it is another than that of the authors.
    """
    tracing = current()
    if tracing is None or all(author.trace is None for author in authors):
        return _UNTRACED
    return _committing(tracing, collection, operation, authors, size)


@contextmanager
def _committing(
    tracing: Tracing, collection: Any, operation: str, authors: Sequence[Author], size: int
) -> Iterator[CommitSpans]:
    attributes: dict[str, str | int] = {
        "db.system.name": "mongodb",
        "db.namespace": collection.database.name,
        "db.collection.name": collection.name,
        "db.operation.name": operation,
    }
    if (size or len(authors)) > 1:
        attributes["db.operation.batch.size"] = size or len(authors)
    spans = [
        None
        if author.trace is None
        else tracing.begin(
            f"commit {collection.name}", author.trace, attributes | {"eventsync.op_id": author.op_id}, kind="client"
        )
        for author in authors
    ]
    with tracing.batch([span for span in spans if span is not None]):
        yield CommitSpans(spans)
