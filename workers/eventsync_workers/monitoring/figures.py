"""Counts of a worker process, over all terms that it leads and all restarts in place."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from eventsync import __version__
from eventsync.metrics.figures import Figures
from eventsync.metrics.instruments import FINE, LONG, Histogram
from eventsync.metrics.process import LoopLag, put_loop_lag, put_process
from eventsync_workers.monitoring import catalogue as metrics

State = Literal["waiting", "standby", "leading"]
"""A worker waits for MongoDB, stands by until the lease is free, or leads."""


class SequencingFigures:
    """The work of the sequencer."""

    def __init__(self) -> None:
        self.events = 0
        self.conversion = Histogram(FINE)
        self.append = Histogram(FINE)
        self.in_flight: deque[tuple[datetime | None, int]] = deque()
        """Changes that were read and are not appended, in batches: the time of the oldest, and their number."""
        self.last_read: float | None = None
        """Unix time of the last read of the change stream."""
        self.repairs: Counter[str] = Counter()
        self.repair_events = 0
        self.logs_begun: Counter[str] = Counter()

    @property
    def lag_events(self) -> int:
        """The number of changes in flight."""
        return sum(count for _, count in self.in_flight)

    @property
    def lag_seconds(self) -> float:
        """The age of the oldest change in flight; 0 without any."""
        oldest = next((at for at, _ in self.in_flight if at is not None), None)
        if oldest is None:
            return 0.0
        aware = oldest if oldest.tzinfo else oldest.replace(tzinfo=UTC)
        return max(0.0, time.time() - aware.timestamp())


class JobFigures:
    """The runs of one job, and what they have done."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.seconds = Histogram(LONG)
        self.succeeded_at: float | None = None
        """Unix time of the end of the last successful run."""
        self.done: Counter[str] = Counter()
        """What the runs have made or removed, by kind."""

    @contextmanager
    def run(self) -> Iterator[None]:
        """Count the block as a run, which has failed if it raises an `Exception`."""
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            # One that is stopped, or has lost its lease, has not failed.
            self.runs["failed"] += not getattr(error, "is_interruption", False)
            raise
        else:
            self.runs["ok"] += 1
            self.succeeded_at = time.time()
        finally:
            self.seconds.observe(time.monotonic() - began)


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
            if job.succeeded_at is not None:
                figures.put(metrics.JOB_SUCCESS, job.succeeded_at, name)
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
