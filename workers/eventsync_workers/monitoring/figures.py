"""Counts of a worker process, over all terms that it leads and all restarts in place."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from bson.timestamp import Timestamp

from eventsync import __version__
from eventsync.errors import EventsyncError, public_error
from eventsync.metrics.figures import Figures
from eventsync.metrics.instruments import FINE, LONG, Histogram
from eventsync.metrics.process import LoopLag, put_loop_lag, put_process
from eventsync_workers.monitoring import catalogue as metrics

State = Literal["waiting", "standby", "leading"]
"""A worker waits for MongoDB, stands by until the lease is free, or leads."""

_REASON: Final = 300
"""Most characters of a reason in the record of a process."""


class SequencingFigures:
    """The work of the sequencer."""

    def __init__(self) -> None:
        self.events = 0
        self.conversion = Histogram(FINE)
        self.append = Histogram(FINE)
        self.in_flight: deque[tuple[datetime | None, int]] = deque()
        """Changes that were read and are not appended, in batches: the time of the oldest, and their number."""
        self.given_up: tuple[datetime, int] | None = None
        """The same of those that a failed term has left; None once they are read again."""
        self.last_read: float | None = None
        """Unix time of the last read of the change stream."""
        self.repairs: Counter[str] = Counter()
        self.repair_events = 0
        self.logs_begun: Counter[str] = Counter()

    @property
    def lag_events(self) -> int:
        """The number of changes in flight, or given up."""
        return self.given_up[1] if self.given_up else sum(count for _, count in self.in_flight)

    @property
    def lag_seconds(self) -> float:
        """The age of the oldest of them; 0 without any."""
        oldest = self.given_up[0] if self.given_up else self._oldest
        return 0.0 if oldest is None else max(0.0, time.time() - oldest.timestamp())

    @property
    def _oldest(self) -> datetime | None:
        oldest = next((at for at, _ in self.in_flight if at is not None), None)
        return oldest if oldest is None or oldest.tzinfo else oldest.replace(tzinfo=UTC)

    def put(self, oldest: datetime | None, count: int, up_to: Timestamp | None) -> None:
        """Count changes that were read as in flight. `up_to` is the cluster time of the read that ends with them."""
        # A stream that is opened again may begin with an empty batch, before the changes that were given up.
        if self.given_up and (count or (up_to is not None and up_to.as_datetime() > self.given_up[0])):
            self.given_up = None
        self.in_flight.append((oldest, count))

    def give_up(self) -> None:
        """Count what is in flight as given up: a term has failed, and the next one reads it again."""
        # Without it, a worker whose inserts keep failing would seem to have no lag between its attempts.
        if self._oldest is not None:
            self.given_up = self._oldest, self.lag_events
        self.in_flight.clear()

    def stand_by(self) -> None:
        """Count nothing: another worker leads."""
        self.given_up = None


@dataclass(frozen=True, slots=True)
class JobRun:
    """A run of a job that has ended `at`, in Unix seconds; `done` is what it has made or removed, by kind."""

    at: float
    seconds: float
    done: Mapping[str, int]
    reason: str | None = None
    """The reason of its failure."""

    def tree(self) -> dict[str, Any]:
        """Return the JSON form."""
        tree = {"at": round(self.at, 3), "seconds": round(self.seconds, 3), "done": dict(self.done)}
        return tree if self.reason is None else tree | {"reason": self.reason[:_REASON]}


class JobFigures:
    """The runs of one job, and what they have done."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.seconds = Histogram(LONG)
        self.began_at: float | None = None
        """Unix time of the beginning of the first run."""
        self.succeeded: JobRun | None = None
        """The last successful run."""
        self.worked: JobRun | None = None
        """The last run that has made or removed something."""
        self.failed: JobRun | None = None
        """The last run that has failed."""
        self.running_since: float | None = None
        self.next_at: float | None = None
        """Unix time of the next run; None while one runs, and without the lease."""
        self.done: Counter[str] = Counter()
        """What the runs have made or removed, by kind."""

    @contextmanager
    def run(self) -> Iterator[None]:
        """Count the block as a run, which has failed if it raises an `Exception`."""
        began, before = time.monotonic(), self.done.copy()
        self.running_since, self.next_at = time.time(), None
        self.began_at = self.began_at or self.running_since

        def ended(reason: str | None = None) -> JobRun:
            return JobRun(time.time(), time.monotonic() - began, self.done - before, reason)

        try:
            yield
        except Exception as error:
            # One that is stopped, or has lost its lease, has not failed.
            if not getattr(error, "is_interruption", False):
                self.runs["failed"] += 1
                self.failed = ended(_reason(error))
            raise
        else:
            self.runs["ok"] += 1
            self.succeeded = ended()
        finally:
            self.running_since = None
            # Also of a run that has failed, or was interrupted: its work stays.
            if (run := ended()).done:
                self.worked = run
            self.seconds.observe(run.seconds)

    def tree(self) -> dict[str, Any]:
        """Return the JSON form of the last runs, of less than a KiB."""
        runs = {"succeeded": self.succeeded, "worked": self.worked, "failed": self.failed}
        return {
            "running_since": self.running_since,
            "next_at": self.next_at,
            **{name: None if run is None else run.tree() for name, run in runs.items()},
        }


def _reason(error: Exception) -> str:
    if isinstance(error, EventsyncError):
        return public_error(error).message
    return "it has failed; the worker's log has the reason"


class WorkerFigures:
    """All that a worker process counts."""

    def __init__(self) -> None:
        self.state: State = "waiting"
        self.terms = 0
        self.lag = LoopLag()
        self.sequencing = SequencingFigures()
        self.jobs: dict[str, JobFigures] = {}

    def of_job(self, name: str) -> JobFigures:
        """Return the figures of a job."""
        return self.jobs.setdefault(name, JobFigures())

    def jobs_tree(self) -> dict[str, Any]:
        """Return the JSON form of the jobs that this process has the lease of, or has had."""
        return {name: job.tree() for name, job in self.jobs.items() if job.next_at or job.running_since or job.runs}

    def figures(self) -> Figures:
        """Return the metrics as of now."""
        figures = Figures()
        put_process(figures, __version__)
        put_loop_lag(figures, self.lag)
        figures.put(metrics.LEADER, self.state == "leading")
        figures.put(metrics.MONGODB_UP, self.state != "waiting")
        figures.put(metrics.TERMS, self.terms)
        self._put_sequencing(figures)
        for name, job in self.jobs.items():
            for result in ("ok", "failed"):
                figures.put(metrics.JOB_RUNS, job.runs[result], name, result)
            figures.put_histogram(metrics.JOB_SECONDS, job.seconds, name)
            if job.began_at is not None:
                figures.put(metrics.JOB_BEGAN, job.began_at, name)
            if job.succeeded is not None:
                figures.put(metrics.JOB_SUCCESS, job.succeeded.at, name)
        done = sum((job.done for job in self.jobs.values()), Counter[str]())
        figures.put(metrics.SNAPSHOTS_MADE, done["snapshots"])
        figures.put(metrics.SNAPSHOT_DOCUMENTS, done["snapshot_documents"])
        figures.put(metrics.SNAPSHOT_BYTES, done["snapshot_bytes"])
        figures.put(metrics.SEALED_EVENTS, done["sealed_events"])
        figures.put(metrics.SEALED_BYTES, done["sealed_bytes"])
        figures.put(metrics.REMOVED_SEGMENTS, done["removed_segments"])
        return figures

    def _put_sequencing(self, figures: Figures) -> None:
        sequencing = self.sequencing
        figures.put(metrics.EVENTS, sequencing.events)
        figures.put_histogram(metrics.CONVERSION, sequencing.conversion)
        figures.put_histogram(metrics.APPEND, sequencing.append)
        figures.put(metrics.LAG_EVENTS, sequencing.lag_events)
        figures.put(metrics.LAG_SECONDS, sequencing.lag_seconds)
        if sequencing.last_read is not None:
            figures.put(metrics.LAST_READ, sequencing.last_read)
        figures.put_all(metrics.REPAIRS, dict.fromkeys(metrics.REPAIR_REASONS, 0) | sequencing.repairs)
        figures.put(metrics.REPAIR_EVENTS, sequencing.repair_events)
        figures.put_all(metrics.LOGS_BEGUN, dict.fromkeys(metrics.LOG_REASONS, 0) | sequencing.logs_begun)
