"""Speed of the sequencer, from a backlog and under live load, beside the floors of the same run."""

from __future__ import annotations

import argparse
import asyncio
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from scripts.bench.deployment import fresh_mongod
from scripts.bench.load import Kind
from scripts.bench.report import Report, Table
from scripts.bench.sequencing_cells import Figures, backlog, live

KINDS = (
    Kind("insert 0.3 KiB", 300),
    Kind("insert 1 KiB", 1024),
    Kind("insert 5 KiB", 5 * 1024),
    Kind("small update of 1 KiB", 1024, update=True),
)
LIVE_KINDS = (KINDS[1], KINDS[3])

_BACKLOG = """\
Changes that were made while no worker ran, then a worker: from the first appended event that is seen to the last one.
*reader* is a bare change stream with the same images that only counts raw BSON (*no images*: without them); *inserts*
are bare ordered inserts of the same rows in batches of 1000. CPU is µs an event."""
_LIVE = """\
An open loop: each write is sent at its intended time. *lag* is from a write's acknowledgement to its event in a change
stream on the log, in ms; negative where the event is seen first. *batch* is the mean number of events in one insert."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Sequencing throughput from a backlog and under live load."""
    parser.add_argument("--changes", type=int, default=200_000, help="changes of a backlog (200000)")
    parser.add_argument("--rate", type=float, default=400.0, help="writes a second under live load (400)")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long a live load lasts (8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; each has a mongod of its own (3)")
    parser.add_argument("--only", default="", help="only kinds whose name has this in it")
    parser.add_argument("--no-live", action="store_true", help="leave out the live load")
    return run


def run(options: argparse.Namespace) -> Report:
    """Raises `InexactError` where an event is missing, doubled or out of place."""
    backlogs: dict[str, dict[str, list[float]]] = defaultdict(functools.partial(defaultdict, list))
    lives: dict[str, dict[str, list[float]]] = defaultdict(functools.partial(defaultdict, list))
    for number in range(options.rounds):
        with fresh_mongod() as deployment:
            kinds = [kind for kind in KINDS if options.only in kind.name]
            # Every other round goes the other way round, so that no kind always has the warmer machine.
            for kind in kinds if number % 2 == 0 else reversed(kinds):
                _say(f"round {number + 1}: backlog, {kind.name}")
                _take(backlogs[kind.name], asyncio.run(backlog(deployment, kind, options.changes)))
                if kind in LIVE_KINDS and not options.no_live:
                    _say(f"round {number + 1}: live, {kind.name}")
                    figures = live(deployment, kind, rate=options.rate, seconds=options.seconds)
                    _take(lives[kind.name], asyncio.run(figures))
    return Report(
        "Sequencing",
        "scripts/bench/run sequencing",
        {
            "rounds": str(options.rounds),
            "backlog": f"{options.changes:,} changes",
            "live load": f"{options.rate:g} writes/s for {options.seconds:g} s",
            "write concern": "majority, journaled; one node",
            "MongoDB": "6.0.5 (embedded)",
        },
        [*_table("From a backlog", _BACKLOG, backlogs), *_table("Under live load", _LIVE, lives)],
    )


def _take(rows: dict[str, list[float]], figures: Figures) -> None:
    for column, value in figures.items():
        rows[column].append(value)
    _say("  " + ", ".join(f"{column} {value:,.2f}" for column, value in figures.items()))


def _table(title: str, explanation: str, rows: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Table]:
    return [Table(title, explanation, rows)] if rows else []


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
