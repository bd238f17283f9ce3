"""`scripts/bench/run NAME [options]`: one benchmark; prints its tables, and with `--write` keeps them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop

from scripts.bench import (
    bootstrap,
    cached_feed,
    catch_up,
    conversion,
    end_to_end,
    fan_out,
    hour,
    replay,
    sequencing,
    sessions,
    snapshots,
    storm,
    years,
)
from scripts.bench.report import Report

RESULTS = Path("docs/benchmarks")

BENCHMARKS: dict[str, Callable[[argparse.ArgumentParser], Callable[[argparse.Namespace], Report]]] = {
    "bootstrap": bootstrap.declare,
    "cached_feed": cached_feed.declare,
    "catch_up": catch_up.declare,
    "conversion": conversion.declare,
    "end_to_end": end_to_end.declare,
    "fan_out": fan_out.declare,
    "hour": hour.declare,
    "replay": replay.declare,
    "sequencing": sequencing.declare,
    "sessions": sessions.declare,
    "snapshots": snapshots.declare,
    "storm": storm.declare,
    "years": years.declare,
}
"""Name → what adds the benchmark's options to a parser and returns what runs it."""


def main() -> None:
    """Exit code 0; 1 where a run was not exact, so that there is no figure; 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="scripts/bench/run", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, declare in BENCHMARKS.items():
        command = commands.add_parser(name, help=(declare.__doc__ or "").split("\n")[0])
        command.add_argument("--write", action="store_true", help=f"keep the result as {RESULTS}/{name}.md and .json")
        command.set_defaults(name=name, run=declare(command))
    options = parser.parse_args()
    logging.getLogger("pymongo").setLevel(logging.CRITICAL)
    uvloop.install()
    report: Report = options.run(options)
    sys.stdout.write(report.markdown())
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.name}.md").write_text(report.markdown())
        (RESULTS / f"{options.name}.json").write_text(report.json())


if __name__ == "__main__":
    main()
