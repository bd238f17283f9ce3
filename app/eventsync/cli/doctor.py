"""`eventsync doctor`: examines the deployment, and says what is wrong with it and what to do."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Final

import typer
from rich.text import Text

from eventsync.cli.console import OUT, print_json, printable
from eventsync.cli.options import Database, Json, MongodbUri
from eventsync.doctor import Finding, Level, examine
from eventsync.process import event_loop
from eventsync.settings import load_settings

_SIGNS: Final[dict[Level, tuple[str, str]]] = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "problem": ("PROBLEM", "bold red"),
}


class ProcessRole(StrEnum):
    """A kind of process whose privileges are examined."""

    WORKER = "worker"
    SERVE = "serve"


def doctor(
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    role: Annotated[
        ProcessRole | None,
        typer.Option(help="Process whose MongoDB user this is.", show_default="both"),
    ] = None,
    absence: Annotated[
        float, typer.Option(min=0, metavar="HOURS", help="Longest time for which no worker may run, in hours.")
    ] = 24.0,
    as_json: Json = False,
) -> None:
    """Examine MongoDB, the archive, this machine and the settings. Write nothing.

    Each finding is `ok`, a `warning` or a `problem`, with what it means and what to do. Exit code 1 if there is a
    problem. Call it as the user and with the settings of a server or a worker.
    """
    roles = (role.value,) if role else tuple(item.value for item in ProcessRole)
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    findings = event_loop.run(examine(settings, absence=absence * 3600, roles=roles))
    counts = Counter(finding.level for finding in findings)
    if as_json:
        print_json({"findings": [asdict(item) for item in findings], "counts": {one: counts[one] for one in _SIGNS}})
    else:
        _show(findings)
        OUT.print(f"{counts['problem']} problem(s), {counts['warning']} warning(s), {counts['ok']} ok", markup=False)
    if counts["problem"]:
        raise typer.Exit(1)


def _show(findings: list[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for item in findings:
        word, style = _SIGNS[item.level]
        line = Text(f"{word:<8} ", style=style)
        line.append(f"{item.check:<{width}}  {printable(item.found)}", style="default")
        OUT.print(line, soft_wrap=True)
        for label, text in (("means", item.meaning), ("do", item.remedy)):
            if text:
                OUT.print(Text(f"{'':9}{label + ':':<6} {printable(text)}"), soft_wrap=True)
