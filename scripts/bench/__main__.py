"""`scripts/bench/run NAME [options]`: run one benchmark and print its tables; `--write` keeps them.

`scripts/bench/run index` lists the goals that the kept results meet.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import uvloop

from scripts.bench import (
    access,
    catch_up,
    end_to_end,
    fan_out,
    installed,
    memory,
    operating,
    packages,
    pauses,
    replay,
    routes,
    sequencing,
    storm,
    writes,
)
from scripts.bench.deployment import measured
from scripts.bench.report import index, page

RESULTS: Final = Path("docs/benchmarks")

BENCHMARKS: Final[dict[str, ModuleType]] = {
    "access": access,
    "catch_up": catch_up,
    "clients": packages,
    "end_to_end": end_to_end,
    "fan_out": fan_out,
    "memory": memory,
    "operating": operating,
    "pauses": pauses,
    "peers": installed,
    "replay": replay,
    "routes": routes,
    "sequencing": sequencing,
    "storm": storm,
    "writes": writes,
}
"""Name → the module: its `OPTIONS`, the options `QUICK` of a quick run, `measure` and `GOALS`."""


def main() -> None:
    """Exit with 0; 1 where a run was not exact, so that there is no figure; 2 for wrong arguments."""
    options = parser().parse_args()
    if options.run is _one and options.quick:
        # Options that are given too take precedence, because they come last.
        options = parser().parse_args([options.name, *options.module.QUICK.split(), *sys.argv[2:]])
    sys.exit(options.run(options))


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    whole = argparse.ArgumentParser(prog="scripts/bench/run", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="NAME")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=_about(module))
        command.add_argument("--write", action="store_true", help=f"keep the result as {RESULTS}/{name}.md")
        command.add_argument("--quick", action="store_true", help=f"small sizes: {module.QUICK}")
        for option, (default, about) in module.OPTIONS.items():
            command.add_argument(
                f"--{option}", type=_kind(default), default=default, help=f"{about} ({_text(default)})"
            )
        command.set_defaults(name=name, module=module, run=_one)
    commands.add_parser("index", help=f"write {RESULTS}/README.md: which goals are met").set_defaults(run=_index)
    return whole


def _kind(default: Any) -> Callable[[str], Any]:
    """Return what makes a value like `default` of an argument; a tuple's are separated by commas."""
    if isinstance(default, tuple):
        return lambda text: tuple(type(default[0])(item) for item in text.split(",") if item)
    return type(default)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _one(options: argparse.Namespace) -> int:
    logging.getLogger("pymongo").setLevel(logging.CRITICAL)
    uvloop.install()
    module = options.module
    tables = measured(lambda on: module.measure(on, options), in_memory=getattr(module, "IN_MEMORY", False))
    goals = getattr(module, "GOALS", ())
    used = {about: _text(vars(options)[name]) for name, (_, about) in module.OPTIONS.items() if vars(options)[name]}
    text = page(module.__doc__, f"scripts/bench/run {options.name}", used, tables, goals)
    sys.stdout.write(text)
    if options.write:
        (RESULTS / f"{options.name}.md").write_text(text)
        return _index(options)
    return 0


def _index(_: argparse.Namespace) -> int:
    pages = {page.stem: page.read_text() for page in sorted(RESULTS.glob("*.md")) if page.stem != "README"}
    (RESULTS / "README.md").write_text(index(pages, {name: _about(module) for name, module in BENCHMARKS.items()}))
    return 0


def _about(module: ModuleType) -> str:
    return (module.__doc__ or "").split("\n")[0]


if __name__ == "__main__":
    main()
