"""`eventsync verify`: proves that the log is complete and replays to exactly the collections."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eventsync.cli.console import NOTES, OUT, print_json, printable
from eventsync.cli.options import Database, Json, MongodbUri
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.history import proof
from eventsync.stores.history.proof import Report, Wrong
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores


def verify(
    collections: Annotated[
        list[str] | None, typer.Argument(help="Tracked collections; all of them if none is given.", show_default=False)
    ] = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Prove that the log gives exactly the collections.

    Stored snapshot and events are compared with each collection, while everything runs. Prove also that events
    carry the routes of their documents, by the active declared shapes. Print the first fault of the log and of each
    collection. Exit code 1 if there is one.
    """
    report = event_loop.run(prove(load_settings(mongodb_uri=mongodb_uri, database=database), collections or []))
    if report.note is not None:
        NOTES.print(report.note, style="yellow", soft_wrap=True)
    if as_json:
        print_json(report.tree())
    else:
        _show(report)
    if not report.whole:
        raise typer.Exit(1)


async def prove(settings: Settings, asked: list[str]) -> Report:
    """Check the log and the named collections, or all. Raises `NotTracked`, `NoBase` and `Unavailable`."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with connected(settings, "verify") as client:
        with Progress(*columns, console=NOTES, transient=True, disable=not NOTES.is_terminal) as progress:
            return await proof.prove(Stores.of(client, settings), asked, _Bars(progress))


class _Bars:
    """A progress bar for each step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def begin_step(self, name: str, total: int | None) -> None:
        """End the bar of the step before, and begin one."""
        for id_ in self._progress.task_ids[-1:]:
            self._progress.update(id_, total=self._progress.tasks[id_].completed)
        self._progress.add_task(printable(name), total=total)

    def advance(self, count: int) -> None:
        """Move the last bar."""
        self._progress.advance(self._progress.task_ids[-1], count)


def _show(report: Report) -> None:
    """Print a report for a person."""
    whole = f"events 1 to {report.head} are complete, and transactions whole" if report.head else "it has no events yet"
    _line(f"log {report.log}", report.wrong, whole)
    for each in report.proofs:
        _line(each.name, each.wrong, f"snapshot and events are exactly the collection, at {each.position}")


def _line(name: str, wrong: Wrong | None, well: str) -> None:
    mark, style = ("ok", "green") if wrong is None else ("WRONG", "red")
    OUT.print(f"{mark:<6}", style=style, end="")
    OUT.print(printable(f"{name}: {well if wrong is None else wrong.text}"), markup=False, soft_wrap=True)
