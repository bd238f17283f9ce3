"""`scripts/bench/run NAME [options]`: one benchmark; prints its tables, and with `--write` keeps them.

`scripts/bench/run all` runs one after the other, `scripts/bench/run index` says whether their goals are met,
`scripts/bench/run tables` writes the tables of all pages again from the kept figures, and `scripts/bench/run plots
DIRECTORY` draws the plots.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvloop

from scripts.bench import (
    bootstrap,
    cached_feed,
    catch_up,
    conversion,
    end_to_end,
    fan_out,
    footprint,
    growth,
    hour,
    installed,
    pauses,
    replay,
    sequencing,
    sessions,
    storm,
    writes,
)
from scripts.bench.goals import index, judged
from scripts.bench.plots import draw
from scripts.bench.report import Report, plots_of, retabled

RESULTS = Path("docs/benchmarks")

BENCHMARKS: dict[str, Callable[[argparse.ArgumentParser], Callable[[argparse.Namespace], Report]]] = {
    "bootstrap": bootstrap.declare,
    "cached_feed": cached_feed.declare,
    "catch_up": catch_up.declare,
    "conversion": conversion.declare,
    "end_to_end": end_to_end.declare,
    "fan_out": fan_out.declare,
    "growth": growth.declare,
    "hour": hour.declare,
    "memory": footprint.declare,
    "pauses": pauses.declare,
    "peers": installed.declare,
    "replay": replay.declare,
    "sequencing": sequencing.declare,
    "sessions": sessions.declare,
    "storm": storm.declare,
    "writes": writes.declare,
}
"""Name → what adds the benchmark's options to a parser and returns what runs it."""

_QUICK: Final = {
    "bootstrap": "--documents 10000 --rounds 1",
    "catch_up": "--documents 2000 --distances 10,100 --bootstraps 5",
    "conversion": "--rounds 1",
    "cached_feed": "--events 5000 --clients 10",
    "end_to_end": "--rounds 1 --seconds 1 --loads 20x100",
    "fan_out": "--rounds 1 --clients 100,200 --sizes 300",
    "growth": "--rounds 1 --clients 10,100 --documents 1000 --backlog 1000 --log 10000 --shapes 1,100",
    "hour": "--minutes 4 --every 5",
    "memory": "--connections 100 --documents 1000 --events 1000 --sizes 300",
    "pauses": "",
    "peers": "--clients 10 --seconds 1 --missed 50 --rounds 1",
    "replay": "--behind 10,10000 --cold 10 --together 0 --rounds 1",
    "sequencing": "--changes 2000 --rounds 1 --seconds 1",
    "sessions": "--only idle --idle 100",
    "storm": "--clients 100 --rounds 1 --rates 20",
    "writes": "--short",
}
"""Options with which each is over soon: enough to see that it runs."""


def main() -> None:
    """Exit code 0; 1 where a run was not exact, so that there is no figure; 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="scripts/bench/run", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, declare in BENCHMARKS.items():
        command = commands.add_parser(name, help=_about(name))
        command.add_argument("--write", action="store_true", help=f"keep the result as {RESULTS}/{name}.md and .json")
        command.set_defaults(name=name, measure=declare(command), run=_one)
    every = commands.add_parser("all", help="every benchmark, one after the other; then the index")
    every.add_argument("--write", action="store_true", help="keep the results")
    every.add_argument("--quick", action="store_true", help="small sizes: whether they run")
    every.set_defaults(run=_all)
    commands.add_parser("index", help=f"{RESULTS}/README.md anew: which goals are met").set_defaults(run=_index)
    commands.add_parser("tables", help="the tables of all pages anew, from the kept figures").set_defaults(run=_tables)
    drawn = commands.add_parser("plots", help="the plots of all kept figures, as SVG files")
    drawn.add_argument("directory", type=Path, help="where they are written")
    drawn.set_defaults(run=_plots)
    options = parser.parse_args()
    sys.exit(options.run(options))


def _one(options: argparse.Namespace) -> int:
    logging.getLogger("pymongo").setLevel(logging.CRITICAL)
    uvloop.install()
    report: Report = options.measure(options)
    sys.stdout.write(report.markdown() + "\n" + judged(options.name, json.loads(report.json())))
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.name}.md").write_text(report.markdown())
        (RESULTS / f"{options.name}.json").write_text(report.json())
        _write_index()
    return 0


def _all(options: argparse.Namespace) -> int:
    failed = []
    for name in BENCHMARKS:
        more = _QUICK[name].split() if options.quick else []
        command = [sys.executable, "-m", "scripts.bench", name, *more, *(["--write"] if options.write else [])]
        print(f"--- {' '.join(command[2:])}", flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _tables(_: argparse.Namespace) -> int:
    for kept in RESULTS.glob("*.json"):
        page = kept.with_suffix(".md")
        page.write_text(retabled(page.read_text(), json.loads(kept.read_text())))
    return 0


def _plots(options: argparse.Namespace) -> int:
    options.directory.mkdir(parents=True, exist_ok=True)
    for kept in RESULTS.glob("*.json"):
        draw(plots_of(json.loads(kept.read_text())), options.directory)
    return 0


def _index(_: argparse.Namespace) -> int:
    _write_index()
    return 0


def _write_index() -> None:
    (RESULTS / "README.md").write_text(index(RESULTS, {name: _about(name) for name in BENCHMARKS}))


def _about(name: str) -> str:
    return (BENCHMARKS[name].__doc__ or "").split("\n")[0]


if __name__ == "__main__":
    main()
