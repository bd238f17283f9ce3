"""Diagnosis: problems of a deployment, found in what its processes and MongoDB say, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eventsync.mongodb.leases import Lease
from eventsync.stores.log.registry import DeclaredShape
from eventsync.stores.stats.overview import Overview
from eventsync.stores.stats.processes import RunningProcess, RunningProcesses
from eventsync.stores.stores import SEQUENCING
from eventsync.sync.operations import Health

_SILENT_AFTER: Final = 2.5
"""Periods after which a process that is not heard is a problem."""

_BEHIND: Final = 10.0
"""Age in seconds of the oldest change that is not in the log at which the lag is a problem."""

_NO_LAG: Final = {"events": 0, "seconds": 0.0}

_RANK: Final = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class FoundProblem:
    """A problem: `error` (something does not work), `warning` (it may soon), or `note`.

    `code` is stable. `what` says what was found, and `remedy` what an operator can do.
    """

    severity: str
    code: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known at one time. `health`, `overview` and `running` are None if MongoDB does not answer."""

    health: Health | None
    overview: Overview | None
    running: RunningProcesses | None
    refused: Mapping[str, str]
    """Collections that can't be tracked, with the reason."""
    shapes: Sequence[DeclaredShape]
    is_open: bool
    """No rules are in force."""
    period: float
    """Seconds between two renewals of a process's record."""

    @property
    def servers(self) -> Sequence[RunningProcess]:
        """The servers that run."""
        return () if self.running is None else self.running.of("server")

    @property
    def workers(self) -> Sequence[RunningProcess]:
        """The workers that run."""
        return () if self.running is None else self.running.of("worker")

    @property
    def leader(self) -> str | None:
        """The worker that leads, or None."""
        return None if self.overview is None else self.overview.holder(SEQUENCING)

    @property
    def sequencing_lag(self) -> Mapping[str, float]:
        """The changes that the leading worker has read and not appended, as it has last said, and the oldest's age."""
        for worker in self.workers:
            # A worker of an earlier version does not say.
            if worker.process.name == self.leader and (lag := worker.state.get("lag")) is not None:
                known: Mapping[str, float] = lag
                return known
        return _NO_LAG


def problems(facts: Facts) -> list[FoundProblem]:
    """Return the problems, the worst first."""
    found = [*_of_health(facts), *_of_jobs(facts), *_of_processes(facts), *_of_declarations(facts)]
    return sorted(found, key=lambda problem: _RANK[problem.severity])


def _of_health(facts: Facts) -> Iterator[FoundProblem]:
    health = facts.health
    if health is None or facts.overview is None:
        yield FoundProblem(
            "error",
            "mongodb_silent",
            "MongoDB does not answer this server in time",
            "Check that the replica set has a primary, and that this server reaches it.",
        )
    if health is None:
        return
    if not health.live:
        yield FoundProblem(
            "error", "feed_not_live", f"this server does not follow the log: {health.detail}", "Read what it logs."
        )
    if health.leader is None and facts.overview is not None:
        yield FoundProblem(
            "error", "no_leader", "no worker leads: changes are not delivered", "Start a worker: `eventsync worker`."
        )
    elif health.leader is not None and not health.sequencer_live:
        yield FoundProblem(
            "error",
            "worker_stalled",
            f"the leading worker {health.leader} makes no progress: {health.detail}",
            "See its log; end it if it hangs, and another one takes over.",
        )
    if health.archive is not None:
        yield FoundProblem(
            "warning",
            "archive_silent",
            f"the archive can't be read: {health.archive}",
            "Check `archive_url` and its credentials. Clients that need archived events wait.",
        )
    if health.journal_delay is not None:
        yield FoundProblem(
            "note",
            "journal_delay",
            f"changes of writers with w: 1 wait {health.journal_delay * 1000:.0f} ms for MongoDB's journal",
            "Lower MongoDB's `journalCommitInterval`, or have the writers wait for the journal.",
        )


def _of_jobs(facts: Facts) -> Iterator[FoundProblem]:
    if (seconds := facts.sequencing_lag["seconds"]) > _BEHIND:
        yield FoundProblem(
            "warning",
            "log_behind",
            f"the log is {seconds:.0f} s behind the changes",
            "MongoDB accepts more writes than the worker appends, or its inserts are slow "
            "(`eventsync_worker_append_seconds`): it catches up once they are fewer.",
        )
    leases: Mapping[str, Lease | None] = {} if facts.overview is None else facts.overview.leases
    for name, lease in leases.items():
        holder = lease.owner if lease is not None and lease.live else None
        for worker in facts.workers:
            job = worker.state.get("jobs", {}).get(name)
            # A job that another worker has taken over is that one's.
            if job is None or holder not in {worker.process.name, None}:
                continue
            failed, succeeded = job["failed"], job["succeeded"]
            if failed is not None and (succeeded is None or succeeded["at"] < failed["at"]):
                yield FoundProblem(
                    "warning",
                    "job_failed",
                    f"{name} has failed: {failed['reason']}",
                    f"Remove the reason; it is tried again. The log of {worker.process.name} has more.",
                )


def _of_processes(facts: Facts) -> Iterator[FoundProblem]:
    for process in (*facts.servers, *facts.workers):
        if process.age > _SILENT_AFTER * facts.period:
            yield FoundProblem(
                "warning",
                "process_silent",
                f"the {process.process.kind} {process.process.name} was last heard {process.age:.0f} s ago",
                "It has been killed, hangs, or does not reach MongoDB: see its log.",
            )
    for server in facts.servers:
        if not server.state["live"]:
            detail = server.state["detail"]
            yield FoundProblem(
                "error",
                "server_not_live",
                f"the server {server.process.name} serves nobody: {detail}",
                "Read what it logs.",
            )
    versions = sorted({process.version for process in (*facts.servers, *facts.workers)})
    if len(versions) > 1:
        yield FoundProblem(
            "note",
            "mixed_versions",
            f"the processes run {' and '.join(versions)}",
            "Finish the upgrade of all of them.",
        )
    if facts.leader is not None and len(facts.workers) == 1:
        yield FoundProblem(
            "note",
            "no_standby",
            "one worker runs: if it is killed, nothing is delivered until it is back",
            "Start a second worker. It stands by, and takes over within seconds.",
        )


def _of_declarations(facts: Facts) -> Iterator[FoundProblem]:
    for name, reason in sorted(facts.refused.items()):
        yield FoundProblem(
            "warning",
            "collection_refused",
            f"{name} can't be tracked: {reason}",
            f"Remove the reason, then `eventsync track {name}`; or `eventsync untrack {name}`.",
        )
    for shape in facts.shapes:
        if shape.refused is not None:
            yield FoundProblem(
                "warning",
                "shape_refused",
                f"the shape {shape.name} can't be served: {shape.refused}",
                "Correct the rules file, then `eventsync rules apply`.",
            )
    if facts.is_open:
        yield FoundProblem(
            "note",
            "no_rules",
            "no [auth] is applied: everybody who reaches this server may read and change everything",
            "Fine for development. For anything else: `eventsync rules apply`.",
        )
