"""`scripts/bench/run NAME [options]`: run one benchmark and print its tables; `--write` keeps them.

`scripts/bench/run all` runs one after the other; `scripts/bench/run index` lists the goals that the kept results meet.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import uvloop

from scripts.bench import (
    catch_up,
    end_to_end,
    fan_out,
    installed,
    memory,
    replay,
    sequencing,
    storm,
    writes,
)
from scripts.bench.deployment import measured
from scripts.bench.report import index, page

RESULTS: Final = Path("docs/benchmarks")

BENCHMARKS: Final[dict[str, tuple[ModuleType, str]]] = {
    "catch_up": (catch_up, "--documents 2000 --distances 10,100"),
    "end_to_end": (end_to_end, "--rounds 1 --seconds 1 --loads 20x100"),
    "fan_out": (fan_out, "--rounds 1 --clients 100,200 --sizes 300"),
    "memory": (memory, "--connections 100 --minutes 0"),
    "peers": (installed, "--clients 10 --seconds 1 --missed 50 --rounds 1"),
    "replay": (replay, "--behind 10,2000 --cold 10 --documents 5000 --together 5000 --rounds 1"),
    "sequencing": (sequencing, "--changes 2000 --rounds 1"),
    "storm": (storm, "--clients 100 --rounds 1 --rates 20"),
    "writes": (writes, "--rounds 1 --seconds 1 --together 32"),
}
"""Name → the module (its `OPTIONS`, `setup`, `measure` and `GOALS`), and options of a quick run."""


def main() -> None:
    """Exit with 0; 1 where a run was not exact, so that there is no figure; 2 for wrong arguments."""
    options = parser().parse_args()
    if options.run is _one and options.quick:
        # Options that are given too take precedence, because they come last.
        options = parser().parse_args([options.name, *BENCHMARKS[options.name][1].split(), *sys.argv[2:]])
    sys.exit(options.run(options))


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    whole = argparse.ArgumentParser(prog="scripts/bench/run", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="NAME")
    for name, (module, quick) in BENCHMARKS.items():
        command = commands.add_parser(name, help=_about(module))
        command.add_argument("--write", action="store_true", help=f"keep the result as {RESULTS}/{name}.md")
        command.add_argument("--quick", action="store_true", help=f"small sizes: {quick}")
        for option, (default, about) in module.OPTIONS.items():
            command.add_argument(f"--{option}", type=type(default), default=default, help=f"{about} ({default})")
        command.set_defaults(name=name, module=module, run=_one)
    every = commands.add_parser("all", help="every benchmark, one after the other")
    every.add_argument("--write", action="store_true", help="keep the results")
    every.add_argument("--quick", action="store_true", help="small sizes, to see that they run")
    every.set_defaults(run=_all)
    commands.add_parser("index", help=f"write {RESULTS}/README.md: which goals are met").set_defaults(run=_index)
    return whole


def _one(options: argparse.Namespace) -> int:
    logging.getLogger("pymongo").setLevel(logging.CRITICAL)
    uvloop.install()
    module = options.module
    tables = measured(lambda on: module.measure(on, options), in_memory=getattr(module, "IN_MEMORY", False))
    goals = getattr(module, "GOALS", ())
    text = page(_about(module), f"scripts/bench/run {options.name}", module.setup(options), tables, goals)
    sys.stdout.write(text)
    if options.write:
        (RESULTS / f"{options.name}.md").write_text(text)
        return _index(options)
    return 0


def _all(options: argparse.Namespace) -> int:
    failed = []
    for name, (_, quick) in BENCHMARKS.items():
        words = [*(quick.split() if options.quick else []), *(["--write"] if options.write else [])]
        command = [sys.executable, "-m", "scripts.bench", name, *words]
        print(f"--- {' '.join(command[2:])}", flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _index(_: argparse.Namespace) -> int:
    pages = {page.stem: page.read_text() for page in sorted(RESULTS.glob("*.md")) if page.stem != "README"}
    (RESULTS / "README.md").write_text(index(pages, {name: _about(module) for name, (module, _) in BENCHMARKS.items()}))
    return 0


def _about(module: ModuleType) -> str:
    return (module.__doc__ or "").split("\n")[0]


if __name__ == "__main__":
    main()
