"""`scripts/chaos`: the long form of tests/chaos, for as long and with as many seeds as wanted."""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from support.chaos.leaks.campaign import run_leaks
from support.chaos.nemeses import known
from support.chaos.report import Stage
from support.chaos.run import Plan, run
from support.chaos.shapes import known_shapes

_T = TypeVar("_T")


def main() -> None:
    """Exit code 0 without violations, 1 with one, 2 for wrong arguments."""
    options = _options()
    logging.getLogger("pymongo").setLevel(logging.CRITICAL)
    failed = False
    for number in range(options.runs):
        seed = options.seed + number
        directory = Path(options.directory or tempfile.mkdtemp(prefix="chaos-")).absolute() / str(seed)
        directory.mkdir(parents=True, exist_ok=True)
        if options.leaks:
            failed = _leaks(seed, options.seconds, directory) or failed
            continue
        plan = Plan(
            seed=seed,
            seconds=options.seconds,
            nodes=options.nodes,
            workers=options.workers,
            servers=options.servers,
            nemeses=known(options.nemesis, nodes=options.nodes),
            shapes=known_shapes(options.shapes),
        )
        stage = Stage(plan.command, directory)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                report = runner.run(_until_ended(run(plan, directory, stage)))
        except BaseException as error:
            sys.stderr.write(f"{stage}\nended by {error!r}\nlogs: {directory}\n")
            if isinstance(error, asyncio.CancelledError):
                sys.exit(1)
            raise
        sys.stdout.write(f"{report}\nlogs: {directory}\n\n")
        sys.stdout.flush()
        failed = failed or bool(report.violations)
    sys.exit(1 if failed else 0)


def _leaks(seed: int, seconds: float, directory: Path) -> bool:
    """Run principals under rules; return True if there was a violation."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(_until_ended(run_leaks(seed, seconds, directory)))
    sys.stdout.write(f"{report}\nlogs: {directory}\n\n")
    sys.stdout.flush()
    return bool(report.violations)


async def _until_ended(coming: Coroutine[Any, Any, _T]) -> _T:
    """Await it, but give it up in good order at SIGTERM: `timeout` is to leave neither processes nor disks behind."""
    task = asyncio.ensure_future(coming)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults strike in each run (60)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="the first run's seed (random)")
    parser.add_argument("--runs", type=int, default=1, help="how many runs, each with the next seed (1)")
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3), help="members of the replica set (3)")
    parser.add_argument("--workers", type=int, default=3, help="competing workers (3)")
    parser.add_argument("--servers", type=int, default=2, help="servers (2)")
    parser.add_argument(
        "--nemesis",
        default="all",
        help="names, comma separated; `all`; `fatal`: those too that cost history; `renewing`: or the log; `none`",
    )
    parser.add_argument("--shapes", default="all", help="names of changes, comma separated; `all`, `fatal` or `none`")
    parser.add_argument("--leaks", action="store_true", help="principals under rules, with faults of their own instead")
    parser.add_argument("--directory", help="where logs go (a new one under the system's)")
    options = parser.parse_args()
    try:
        known(options.nemesis, nodes=options.nodes)
        known_shapes(options.shapes)
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    main()
