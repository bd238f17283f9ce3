"""`eventsync import`: writes the documents of a file into a collection."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from eventsync.cli.console import NOTES, OUT, print_json, printable
from eventsync.cli.options import Database, Json, MongodbUri, Token, Url, check_credential, check_url
from eventsync.domain.names import check_collection
from eventsync.errors import ConfigurationError
from eventsync.importing import (
    DatabaseTarget,
    Importer,
    ImportJob,
    Mode,
    Place,
    ProgressFile,
    ServerTarget,
    Target,
    Totals,
    read_records,
)
from eventsync.nodestorage import NodeStorage, WritePolicy
from eventsync.process import event_loop
from eventsync.process.garbage_collection import collect_rarely
from eventsync.settings import Settings, load_settings
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores

_INTERVAL: Final = 5.0
"""Seconds between two lines of progress without a terminal."""
_DONE: Final[Mapping[Mode, str]] = {
    Mode.INSERT: "inserted",
    Mode.UPSERT: "inserted or replaced",
    Mode.MERGE: "inserted or changed",
    Mode.DELETE: "deleted",
}


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON documents; `-` reads standard input.")],
    collection: Annotated[str, typer.Option("--collection", metavar="NAME", help="The collection to write to.")],
    mode: Annotated[Mode, typer.Option(help="What to do with a document whose `_id` exists.")] = Mode.INSERT,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an import that was interrupted.")] = False,
    progress: Annotated[
        Path | None, typer.Option(metavar="PATH", help="File of the progress.", show_default="FILE.progress")
    ] = None,
    stop_on_error: Annotated[bool, typer.Option("--stop-on-error", help="Stop at a document that fails.")] = False,
    parallel: Annotated[int, typer.Option(help="Batches under way at a time.", min=1, max=64)] = 4,
    timeout: Annotated[
        float, typer.Option(help="Maximum time without any success until the import ends, in seconds.", min=0)
    ] = 60.0,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Write the documents of a file into a collection.

    The file has one Extended JSON document a line, or an array of them, as `mongoexport` writes it. Documents that fail
    are listed with their lines; the exit code is then 1. An interrupted import leaves a file FILE.progress and is
    continued with --resume.
    """
    check_collection(collection)
    if url is not None:
        check_url(url, mongodb_uri, database)
        check_credential(token)
    is_input = str(file) == "-"
    source, size = (sys.stdin.buffer, None) if is_input else _opened(file)
    name = "standard input" if is_input else file.name
    if size is None and resume:
        raise ConfigurationError(f"{name} can't be resumed: it can be read only once")
    path = None if size is None else progress or file.with_name(f"{name}.progress")
    collect_rarely(waited_for=False)
    with source:
        settings = load_settings(mongodb_uri=mongodb_uri, database=database) if url is None else None
        target = url or f"database {settings.database if settings else ''}"
        kept = ProgressFile(path, source, ImportJob(target, collection, mode))
        report = _Report(name, size)
        run = _Run(source, kept, report, mode, resume=resume, parallel=parallel, timeout=timeout, stop=stop_on_error)
        totals = event_loop.run(run.into(collection, settings, url or "", token))
    _print(totals, collection, mode, as_json=as_json)
    if totals.failed:
        raise typer.Exit(1)


def _opened(file: Path) -> tuple[BinaryIO, int | None]:
    """Open a file. Its size is None if it is a pipe, which can be read only once."""
    try:
        source = file.open("rb")
        found = os.fstat(source.fileno())
        return source, found.st_size if stat.S_ISREG(found.st_mode) else None
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read: {error.strerror}") from error


def _print(totals: Totals, collection: str, mode: Mode, *, as_json: bool) -> None:
    if as_json:
        print_json({"collection": collection, "mode": mode, "written": totals.written, "failed": totals.failed})
        return
    text = f"{collection}: {totals.written:,} documents {_DONE[mode]}, {totals.failed:,} failed"
    OUT.print(printable(text), markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of an import."""

    source: BinaryIO
    kept: ProgressFile
    report: _Report
    mode: Mode
    resume: bool
    parallel: int
    timeout: float
    stop: bool

    async def into(self, collection: str, settings: Settings | None, url: str, token: str | None) -> Totals:
        """Import into a collection, in the database of the settings or, without any, through the server at `url`."""
        if settings is None:
            with closing(ServerTarget(url, collection, token)) as target:
                return await self._with(target)
        async with connected(settings, "import") as client:
            stores = Stores.of(client, settings)
            storage = NodeStorage(stores.data, stores.log["operations"], WritePolicy.of(settings))
            return await self._with(DatabaseTarget(storage, collection, settings.principal))

    async def _with(self, target: Target) -> Totals:
        state = self.kept.begin(resume=self.resume)
        importer = Importer(target, self.mode, self.kept, self.report, parallel=self.parallel, timeout=self.timeout)
        with self.report:
            self.report.advanced(state.done, state.written)
            totals = await importer.run(read_records(self.source, state.done), state, stop_on_error=self.stop)
        if totals.complete:
            self.kept.remove()
        return totals


class _Report:
    """The progress of an import on standard error: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, size: int | None) -> None:
        """`size` is the size of the file `name`, or None if it is not known."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[documents]:,} documents, {task.fields[rate]:,.0f}/s", markup=False),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=NOTES, transient=True, disable=not NOTES.is_terminal)
        self._task = self._progress.add_task(printable(name), total=size, documents=0, rate=0.0)
        self._name = name
        self._size = size
        self._began: tuple[float, int] | None = None
        self._next = time.monotonic() + _INTERVAL

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def failed(self, line: int, error: str) -> None:
        NOTES.print(printable(f"line {line}: {error}"), markup=False, soft_wrap=True)

    def advanced(self, done: Place, written: int) -> None:
        now = time.monotonic()
        began, before = self._began = self._began or (now, written)
        rate = (written - before) / (now - began) if now > began else 0.0
        self._progress.update(self._task, completed=done.offset, documents=written, rate=rate)
        if not NOTES.is_terminal and now >= self._next:
            self._next = now + _INTERVAL
            share = f", {100 * done.offset // self._size} %" if self._size else ""
            NOTES.print(
                f"{printable(self._name)}: {written:,} documents, {rate:,.0f}/s{share}", markup=False, soft_wrap=True
            )
