"""Results of a benchmark: figures of several rounds, as a Markdown page that says which goals they meet."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar

Case = TypeVar("Case")
Figures = dict[str, float]

_SUMMED: Final = 3_000_000
_PACKAGES: Final = ("pymongo", "uvicorn", "starlette", "websockets", "uvloop")
_SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def say(text: str) -> None:
    """Print progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def percentiles(values: Iterable[float], prefix: str = "") -> Figures:
    """Return p50, p95 and p99, each a value that was measured. Raises `ValueError` if there is none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("nothing was measured")
    return {prefix + name: ordered[min(len(ordered) - 1, int(len(ordered) * at))] for name, at in _SHARES.items()}


def alternating(rounds: int, cases: Sequence[Case]) -> Iterator[tuple[int, Case]]:
    """Yield the cases of each round with its number, in reverse every other round: none always comes first."""
    for number in range(rounds):
        yield from ((number, case) for case in (cases if number % 2 == 0 else reversed(cases)))


class Rows(defaultdict[str, defaultdict[str, list[float]]]):
    """Name of a row → column → one value a round. NaN: there is no such figure."""

    def __init__(self) -> None:
        super().__init__(lambda: defaultdict(list))

    def note(self, name: str, figures: Figures) -> Figures:
        """Add the figures of a round, print them, and return them."""
        say(f"{name}: " + ", ".join(f"{column} {value:,.2f}" for column, value in figures.items()))
        for column, value in figures.items():
            self[name][column].append(value)
        return figures


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of the same kind."""

    title: str
    explanation: str
    rows: Mapping[str, Mapping[str, Sequence[float]]]

    def markdown(self) -> str:
        """Return a section. A figure that a row lacks is an empty cell."""
        columns = list(dict.fromkeys(column for row in self.rows.values() for column in row))
        head = f"| |{'|'.join(f' {column} ' for column in columns)}|\n|---|{'---|' * len(columns)}\n"
        lines = ((name, "|".join(f" {_spread(row.get(at, ()))} " for at in columns)) for name, row in self.rows.items())
        return f"## {self.title}\n\n{self.explanation}\n\n{head}" + "".join(
            f"| {at} |{cells}|\n" for at, cells in lines
        )


def _spread(values: Sequence[float]) -> str:
    """Return the median, and the least and the most where they differ."""
    if not values or math.isnan(median := statistics.median(values)):
        return ""
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    if min(values) == max(values):
        return f"{median:,.{digits}f}"
    return f"{median:,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Goal:
    """Limit of the medians of `column`, in the rows of a table whose name begins with `rows`."""

    what: str
    table: str
    rows: str
    column: str
    limit: float
    at_least: bool = False

    def judged(self, tables: Iterable[Table]) -> str:
        """Return a row of Markdown."""
        sign = "≥" if self.at_least else "≤"
        rows = next((table.rows for table in tables if table.title == self.table), {})
        listed = [row[self.column] for name, row in rows.items() if name.startswith(self.rows) and self.column in row]
        found = [median for median in map(statistics.median, listed) if not math.isnan(median)]
        if not found:
            return f"| {self.what} | {sign} {self.limit:g} | not measured | |\n"
        met = [value >= self.limit if self.at_least else value <= self.limit for value in found]
        span = f"{min(found):.2f}" if min(found) == max(found) else f"{min(found):.2f} to {max(found):.2f}"
        judged = "met" if all(met) else "missed" if not any(met) else f"met by {sum(met)} of {len(met)}"
        return f"| {self.what} | {sign} {self.limit:g} | {span} | {judged} |\n"


_GOALS = "| | goal | found | |\n|---|---|---|---|\n"


def page(about: str, command: str, options: Mapping[str, str], tables: Sequence[Table], goals: Sequence[Goal]) -> str:
    """Return the page of a result. `about`: a title, a colon and more; after a blank line what is the same for all."""
    first, _, text = about.partition("\n")
    made = f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}. Figures are medians of the rounds, with the least and"
    facts = "".join(f"- {name}: {value}\n" for name, value in {**options, "commit": _commit(), **_machine()}.items())
    judged = f"## Goals\n\n{_GOALS}" + "".join(goal.judged(tables) for goal in goals)
    head = f"# {first.partition(':')[0]}\n\n{made} the most.\n\n"
    parts = [
        head + f"{text.strip()}\n\n{facts}".lstrip(),
        *([judged] if goals else []),
        *(table.markdown() for table in tables),
    ]
    return "\n".join(parts)


def index(pages: Mapping[str, str], about: Mapping[str, str]) -> str:
    """Return the page about all results: goals met, and when each was made. `about`: benchmark → a line about it."""
    goals, made = "", ""
    for name, page in pages.items():
        section = page.partition(f"## Goals\n\n{_GOALS}")[2].partition("\n\n")[0]
        goals += "".join(f"{row} [{name}]({name}.md) |\n" for row in section.splitlines())
        day = re.search(r"on (\d{4}-\d\d-\d\d)", page)
        made += f"| [{name}]({name}.md) | {day[1] if day else ''} | {about.get(name, '')} |\n"
    return (
        "# Benchmarks\n\nMade by `scripts/bench/run index` of the results beside it. All ran on two shared cores: "
        "ratios within a run\nhold, absolute figures only roughly.\n\n"
        "## Goals\n\nThe least and the most of the rows that a goal is about, each a median of its rounds.\n\n"
        f"| | goal | found | | |\n|---|---|---|---|---|\n{goals}\n"
        f"## Results\n\n| | made | |\n|---|---|---|\n{made}"
    )


def _commit() -> str:
    """Return the commit that is measured, with `-dirty` where the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _machine() -> dict[str, str]:
    """Return the facts besides the code that the figures depend on."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"(?m)^model name\s*:\s*(.*)$", info.read_text()) if info.exists() else []
    began = time.process_time()
    sum(number for number in range(_SUMMED))
    speed = f"{time.process_time() - began:.2f} s of CPU to add up {_SUMMED:,} numbers in Python"
    return {
        "processes": "mongod (one node), a worker, a server, the clients and the writer, each a process of its own, "
        "share the CPUs; all over loopback; writes are majority, journaled",
        "machine": f"{os.cpu_count()} CPUs ({(models or ['unknown'])[0]}), {sys.platform} {platform.machine()}",
        "speed": speed,
        "load": f"{os.getloadavg()[1]:.1f} processes at the end, the benchmark's own included (5 minutes' mean)",
        "versions": ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
        + f", Python {platform.python_version()}",
    }
