"""The runs of a job are counted, and the last ones are published."""

from __future__ import annotations

import json
from contextlib import suppress

from eventsync.errors import Unavailable
from eventsync_workers.jobs.job import Stopped
from eventsync_workers.monitoring.figures import JobFigures, JobRun, WorkerFigures


def of(run: JobRun | None) -> tuple[dict[str, int], str | None]:
    assert run is not None
    assert run.seconds >= 0
    return dict(run.done), run.reason


def fail(job: JobFigures, error: Exception, **done: int) -> None:
    """Run a job that ends by an error."""
    with suppress(type(error)), job.run():
        job.done.update(done)
        raise error


def test_last_runs_are_kept_by_their_result() -> None:
    job = JobFigures()
    with job.run():
        assert job.running_since is not None
        job.done.update(snapshots=2)
    with job.run():
        job.done.update(removed_segments=0)
    fail(job, Unavailable("the archive can't be read" + "!" * 1000), sealed_events=7)
    assert of(job.succeeded) == ({}, None)
    assert of(job.worked) == ({"sealed_events": 7}, None)
    assert job.failed is not None
    assert job.running_since is None
    assert (job.runs["ok"], job.runs["failed"]) == (2, 1)
    assert len(json.dumps(job.tree())) < 1024


def test_reason_of_an_unexpected_failure_is_in_the_log_alone() -> None:
    job = JobFigures()
    fail(job, KeyError("canary"))
    assert of(job.failed) == ({}, "it has failed; the worker's log has the reason")


def test_interrupted_run_has_not_failed() -> None:
    job = JobFigures()
    fail(job, Stopped(), snapshots=1)
    assert job.failed is job.succeeded is None
    assert of(job.worked) == ({"snapshots": 1}, None)


def test_only_jobs_of_this_worker_are_published() -> None:
    figures = WorkerFigures()
    figures.of_job("archiving")
    with figures.of_job("compacting").run():
        assert list(figures.jobs_tree()) == ["compacting"]
    figures.of_job("snapshotting").next_at = 1.0
    assert sorted(figures.jobs_tree()) == ["compacting", "snapshotting"]
